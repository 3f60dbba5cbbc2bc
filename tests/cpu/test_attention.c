#include "cpu/attention_cases.h"

CASE_TESTS(test_cpu_attention, attention_cases)

/* Scores of several hundred, rising and falling along the keys: the running maximum must follow. */
static void test_cpu_attention__large_scores(void **state)
{
    (void)state;
    static const Case c[] = {
        {.name = "large scores", .kind = OP_ATTENTION, .attr = {.heads = 1, .scale = 1.0f}, .nin = 3, .tol = 2e-4,
         .in = {IN_RANGE('N', -30, 30, 1, 40, 8), IN_RANGE('N', -30, 30, 1, 300, 8), IN('N', 1, 300, 8)}, .tol_bf = 2e-2},
        {.name = "sharp", .kind = OP_ATTENTION, .attr = {.heads = 1, .scale = 1.0f}, .nin = 3, .tol = 1e-4,
         .in = {IN_RANGE('T', -4, 4, 1, 40, 8), IN_RANGE('T', -4, 4, 1, 300, 8), IN('T', 1, 300, 8)}, .tol_bf = 5e-2},
    };
    check_reference(c, sizeof c / sizeof *c);
}

/* A weight that has nothing to say is exactly 0: a key after the query must not reach it even through a huge value. */
static void test_cpu_attention__future_is_invisible(void **state)
{
    (void)state;
    static const Case c = {.name = "future", .kind = OP_ATTENTION, .attr = {.heads = 1, .scale = 1.0f, .causal = 1},
                           .nin = 3, .in = {IN('T', 1, 70, 16), IN('T', 1, 70, 16), IN('T', 1, 70, 16)}};
    for (int isa = CPU_ISA_BASE; isa <= CPU_ISA_AVX512; isa++) {
        Backend *be = make_backend(1, isa);
        Run a, b;
        run_inputs(&a, &c, be, DTYPE_F32, DTYPE_F32, 0, 0);
        run_forward(&a, &c);
        run_inputs(&b, &c, be, DTYPE_F32, DTYPE_F32, 0, 0);
        for (int d = 0; d < 16; d++) {
            write_value(b.e.data[b.in[1]], DTYPE_F32, 66 * 16 + d, 20);
            write_value(b.e.data[b.in[2]], DTYPE_F32, 66 * 16 + d, 1e36);
        }
        run_forward(&b, &c);
        assert_memory_equal(a.e.data[a.out[0]], b.e.data[b.out[0]], 66 * 16 * sizeof(float));
        assert_memory_not_equal(a.e.data[a.out[0]], b.e.data[b.out[0]], 70 * 16 * sizeof(float));
        eager_deinit(&a.e);
        eager_deinit(&b.e);
        backend_destroy(be);
    }
}

/* q = k = 0 weighs every key alike: the output is the mean value, lse the log of the number of keys. */
static void test_cpu_attention__uniform_weights(void **state)
{
    (void)state;
    static const Case c = {.name = "uniform", .kind = OP_ATTENTION, .attr = {.heads = 1, .scale = 1.0f}, .nin = 3,
                           .in = {IN_RANGE('T', 0, 0, 1, 3, 2), IN_RANGE('T', 0, 0, 1, 4, 2), IN('T', 1, 4, 2)}};
    for (Dtype t = DTYPE_F32; t <= DTYPE_F64; t += DTYPE_F64 - DTYPE_F32) {
        Backend *be = make_backend(1, CPU_ISA_AVX512);
        Run r;
        run_inputs(&r, &c, be, t, DTYPE_F32, 0, 0);
        run_forward(&r, &c);
        for (int d = 0; d < 2; d++) {
            double mean = 0;
            for (int j = 0; j < 4; j++)
                mean += read_value(r.e.data[r.in[2]], t, j * 2 + d) / 4;
            for (int i = 0; i < 3; i++)
                assert_true(fabs(read_value(r.e.data[r.out[0]], t, i * 2 + d) - mean) < 1e-6);
        }
        assert_true(fabs(read_value(r.e.data[r.out[1]], t, 0) - log(4)) < 1e-6);
        eager_deinit(&r.e);
        backend_destroy(be);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE_TEST_LIST(test_cpu_attention),
        cmocka_unit_test(test_cpu_attention__large_scores),
        cmocka_unit_test(test_cpu_attention__future_is_invisible),
        cmocka_unit_test(test_cpu_attention__uniform_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
