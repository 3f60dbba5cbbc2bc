#include "cpu/harness.h"

#define GN(nm, a, eps_, g, items_, fd, ...)                                                                             \
    {.name = nm, .kind = OP_GROUP_NORM, .attr = {.groups = g, .eps = eps_, .act = a}, .nin = 3, .in = {__VA_ARGS__},     \
     .items = items_, .skip_fd = fd}

static const Case cases[] = {
    GN("group_norm", ACT_NONE, 1e-5f, 4, 1, 0, IN('T', 2, 3, 5, 8), IN('P', 8), IN('P', 8)),
    GN("group_norm silu", ACT_SILU, 1e-6f, 3, 1, 0, IN('T', 3, 7, 2, 21), IN('P', 21), IN('P', 21)),
    GN("group_norm one group", ACT_SILU, 1e-5f, 1, 1, 0, IN('T', 2, 9, 5), IN('P', 5), IN('P', 5)),
    GN("group_norm one channel each", ACT_NONE, 1e-5f, 33, 1, 0, IN('T', 1, 13, 33), IN('P', 33), IN('P', 33)),
    GN("group_norm one row", ACT_SILU, 1e-5f, 8, 1, 0, IN('T', 2, 1, 1, 64), IN('P', 64), IN('P', 64)),
    /* The saved mean is a float: 4e-6 of 100 is 1.3e-5 of the deviation. */
    {.name = "group_norm far mean", .kind = OP_GROUP_NORM, .attr = {.groups = 8, .eps = 1e-5f}, .nin = 3, .tol = 3e-5,
     .in = {IN_RANGE('T', 99.5, 100.5, 2, 17, 19, 40), IN('P', 40), IN('P', 40)}, .items = 1, .skip_fd = 1},
    GN("group_norm 32 of 320", ACT_SILU, 1e-5f, 32, 1, 1, IN('T', 2, 16, 16, 320), IN('P', 320), IN('P', 320)),
    GN("group_norm several chunks", ACT_SILU, 1e-5f, 32, 1, 1, IN('T', 2, 33, 17, 96), IN('P', 96), IN('P', 96)),
    {.name = "layer_norm", .kind = OP_LAYER_NORM, .attr = {.eps = 1e-5f}, .nin = 3,
     .in = {IN('T', 2, 3, 7), IN('P', 7), IN('P', 7)}, .items = 1},
    {.name = "layer_norm 320", .kind = OP_LAYER_NORM, .attr = {.eps = 1e-5f}, .nin = 3,
     .in = {IN('T', 3, 65, 320), IN('P', 320), IN('P', 320)}, .items = 1, .skip_fd = 1},
    {.name = "layer_norm 1283, far mean", .kind = OP_LAYER_NORM, .attr = {.eps = 1e-5f}, .nin = 3, .tol = 3e-5,
     .in = {IN_RANGE('T', 30, 31, 2, 20, 1283), IN('P', 1283), IN('P', 1283)}, .items = 1, .skip_fd = 1},
    {.name = "layer_norm one wide", .kind = OP_LAYER_NORM, .attr = {.eps = 1e-5f}, .nin = 3,
     .in = {IN('N', 5, 1), IN('C', 1), IN('C', 1)}, .items = 1, .skip_fd = 1},
    {.name = "l2_norm", .kind = OP_L2_NORM, .nin = 1, .in = {IN('T', 4, 19)}, .items = 1},
    {.name = "l2_norm 768", .kind = OP_L2_NORM, .nin = 1, .in = {IN('T', 70, 768)}, .items = 1, .skip_fd = 1},
};

CASE_TESTS(test_cpu_norm, cases)

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
