#include "cpu/norm_cases.h"

CASE_TESTS(test_cpu_norm, norm_cases)

/* A zero row has no direction: it stays zero, and its gradient is that of the scaling by 1e12. */
static void test_cpu_norm__l2_of_zero_row(void **state)
{
    (void)state;
    static const Case c = {.name = "zero", .kind = OP_L2_NORM, .nin = 1, .in = {IN_RANGE('T', 0, 0, 3, 5)}};
    Backend *be = make_backend(1, CPU_ISA_AVX512);
    Run r;
    run_case(&r, &c, be, DTYPE_F32, DTYPE_F32, 0, 0);
    for (int i = 0; i < 15; i++) {
        double seed = read_value(r.e.data[r.seed], DTYPE_F32, i);
        assert_true(read_value(r.e.data[r.out[0]], DTYPE_F32, i) == 0);
        assert_true(fabs(read_value(r.e.data[r.din[0]], DTYPE_F32, i) - seed * 1e12) <= 1e6);
    }
    eager_deinit(&r.e);
    backend_destroy(be);
}

/* The double loops are the reference for the rest, so they are held against numbers worked out by hand:
 * x = 1, 3 | 2, 6 in one group: mean 3, variance 3.5. */
static void test_cpu_norm__group_norm_by_hand(void **state)
{
    (void)state;
    Backend *be = make_backend(1, CPU_ISA_BASE);
    Eager e;
    eager_init(&e, be, DTYPE_F64);
    Meta mx = {DTYPE_F64, SHAPE(1, 2, 2)}, mp = {DTYPE_F64, SHAPE(2)};
    OpRef in[3] = {eager_new(&e, &mx), eager_new(&e, &mp), eager_new(&e, &mp)}, out[3];
    memcpy(e.data[in[0]], (double[]){1, 3, 2, 6}, 4 * sizeof(double));
    memcpy(e.data[in[1]], (double[]){2, 1}, 2 * sizeof(double));
    memcpy(e.data[in[2]], (double[]){0, 10}, 2 * sizeof(double));
    OpAttr attr = {.groups = 1, .eps = 0.5f};
    eager_emit(&e.base, OP_GROUP_NORM, &attr, in, 3, out, 3);
    const double want[4] = {-2, 10, -1, 11.5};
    for (int i = 0; i < 4; i++)
        assert_true(fabs(((double *)e.data[out[0]])[i] - want[i]) < 1e-12);
    assert_true(fabs(((double *)e.data[out[1]])[0] - 3) < 1e-12);
    assert_true(fabs(((double *)e.data[out[2]])[0] - 0.5) < 1e-12);
    eager_deinit(&e);
    backend_destroy(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE_TEST_LIST(test_cpu_norm),
        cmocka_unit_test(test_cpu_norm__l2_of_zero_row),
        cmocka_unit_test(test_cpu_norm__group_norm_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
