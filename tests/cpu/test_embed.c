#include "cpu/embed_cases.h"

CASE_TESTS(test_cpu_embed, embed_cases)

/* sin first without flip; frequency 0 is 1, the last is max_period^-1 when shift is 1. */
static void test_cpu_embed__time_by_hand(void **state)
{
    (void)state;
    Backend *be = make_backend(1, CPU_ISA_AVX512);
    for (int flip = 0; flip < 2; flip++) {
        float t = 3, y[4];
        OpAttr attr = {.flip = flip, .shift = 1, .max_period = 100, .count = 4};
        OpView in = {.data = &t, .dtype = DTYPE_F32, .shape = SHAPE(1)};
        OpView out = {.data = y, .dtype = DTYPE_F32, .shape = SHAPE(1, 4)};
        OpCall c = {.kind = OP_TIME_EMBED, .attr = &attr, .in = &in, .out = &out, .nin = 1, .nout = 1};
        assert_int_equal(be->op[OP_TIME_EMBED].run(be, &c), 0);
        const double want[4] = {sin(3), sin(0.03), cos(3), cos(0.03)};
        for (int i = 0; i < 4; i++)
            assert_true(fabs((double)y[i] - want[(i + 2 * flip) % 4]) < 1e-6);
    }
    backend_destroy(be);
}

static void test_cpu_embed__id_out_of_range(void **state)
{
    (void)state;
    Backend *be = make_backend(1, CPU_ISA_AVX512);
    float table[6] = {0}, y[4];
    for (int bad = -1; bad <= 3; bad += 4) {
        int32_t id[2] = {0, bad};
        OpView in[2] = {{.data = id, .dtype = DTYPE_I32, .shape = SHAPE(1, 2)}, {.data = table, .dtype = DTYPE_F32, .shape = SHAPE(3, 2)}};
        OpView out = {.data = y, .dtype = DTYPE_F32, .shape = SHAPE(1, 2, 2)};
        OpCall c = {.kind = OP_EMBED, .attr = &(OpAttr){0}, .in = in, .out = &out, .nin = 2, .nout = 1};
        assert_int_equal(be->op[OP_EMBED].run(be, &c), ERR_RANGE);
        assert_non_null(strstr(err_message(), "ids[1]"));
    }
    backend_destroy(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE_TEST_LIST(test_cpu_embed),
        cmocka_unit_test(test_cpu_embed__time_by_hand),
        cmocka_unit_test(test_cpu_embed__id_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
