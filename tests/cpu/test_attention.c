#include "cpu/harness.h"

#define ATT(nm, h, sc, cs, n, lq, lk, c, fd)                                                                    \
    {.name = nm, .kind = OP_ATTENTION, .attr = {.heads = h, .scale = sc, .causal = cs}, .nin = 3,                \
     .in = {IN('T', n, lq, c), IN('T', n, lk, c), IN('T', n, lk, c)}, .items = 1, .tol_bf = 3e-2, .skip_fd = fd}

static const Case cases[] = {
    ATT("one of one", 1, 1.0f, 0, 1, 1, 1, 1, 0),
    ATT("small", 2, 0.5f, 0, 2, 3, 5, 6, 0),
    ATT("causal", 3, 0.7f, 1, 2, 7, 7, 12, 0),
    ATT("causal, more keys", 1, 0.7f, 1, 1, 4, 9, 5, 0),
    ATT("causal, more queries", 1, 0.7f, 1, 1, 9, 4, 5, 0),
    ATT("causal 77 of 64", 2, 0.125f, 1, 2, 77, 77, 128, 1),
    ATT("causal 200", 1, 0.3f, 1, 1, 200, 200, 22, 1),
    ATT("33 queries, 101 keys", 2, 0.2f, 0, 2, 33, 101, 48, 1),
    ATT("cross 77, 40 wide", 4, 0.158f, 0, 2, 130, 77, 160, 1),
    ATT("self 256, 32 wide", 2, 0.177f, 0, 2, 256, 256, 64, 1),
    ATT("self 65, 80 wide", 2, 0.11f, 0, 1, 65, 65, 160, 1),
    ATT("160 wide", 1, 0.079f, 0, 1, 70, 129, 160, 1),
    ATT("512 wide", 1, 0.044f, 0, 1, 36, 67, 512, 1),
    ATT("groups of blocks", 1, 0.3f, 0, 1, 1030, 99, 12, 1),
    ATT("groups of blocks, causal", 2, 0.3f, 1, 1, 1040, 110, 8, 1),
    ATT("several spans of keys", 1, 0.05f, 0, 2, 35, 420, 352, 1),
    /* The first query sees one key: its dq is 0 but for rounding. */
    {.name = "causal, several spans", .kind = OP_ATTENTION, .attr = {.heads = 1, .scale = 0.05f, .causal = 1}, .nin = 3,
     .in = {IN('T', 1, 250, 352), IN('T', 1, 250, 352), IN('T', 1, 250, 352)}, .tol = 1e-4, .tol_bf = 6e-2, .skip_fd = 1},
    ATT("17 wide", 3, 0.25f, 0, 1, 33, 191, 51, 1),
};

CASE_TESTS(test_cpu_attention, cases)

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
