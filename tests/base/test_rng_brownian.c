#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "base/error.h"
#include "base/rng_brownian.h"
#include "base/rng_torch.h"
#include "sampler/vectors.h"

static void draw_cpu(void *ctx, uint32_t seed, float *out, int64_t n)
{
    RngTorch g;
    (void)ctx;
    rng_torch_init(&g, seed);
    rng_torch_normal_f32(&g, out, n);
}

static void test_rng_brownian__seed_sequence(void **state)
{
    (void)state;
    static const struct {
        uint64_t entropy;
        uint32_t spawn[2];
        int nspawn;
    } cases[] = {{0, {0, 0}, 0}, {42, {0, 0}, 2}, {4294967295u, {5, 3}, 2}, {1099511627783u, {1, 1}, 2}, {1099511627783u, {0, 0}, 0}};
    Vectors v = {0};
    assert_int_equal(vectors_open(&v, "tests/vectors/rng/brownian.safetensors"), 0);
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        char name[16];
        size_t n = 0;
        uint32_t got[4];
        snprintf(name, sizeof name, "seq%zu", k);
        double *want = vectors_get(&v, name, &n);
        rng_seed_sequence(cases[k].entropy, cases[k].spawn, cases[k].nspawn, got, 4);
        for (int i = 0; i < 4; i++)
            assert_true(got[i] == (uint32_t)want[i]);
        free(want);
    }
    vectors_close(&v);
}

/* Increments as torchsde gives them, in any order of asking. */
static void test_rng_brownian__golden_increments(void **state)
{
    (void)state;
    static const uint64_t seeds[] = {1, 42, 1234567890123u};
    Vectors v = {0};
    size_t nq = 0, n = 0;
    assert_int_equal(vectors_open(&v, "tests/vectors/rng/brownian.safetensors"), 0);
    double *q = vectors_get(&v, "queries", &nq);
    for (size_t s = 0; s < 3; s++) {
        char name[32];
        float got[64];
        RngBrownian *b = NULL;
        snprintf(name, sizeof name, "w%llu", (unsigned long long)seeds[s]);
        double *want = vectors_get(&v, name, &n);
        assert_int_equal(n, nq / 2 * 64);
        assert_int_equal(rng_brownian_create(&b, seeds[s], (double)0.0291672f, (double)14.614643f, 64, draw_cpu, NULL), 0);
        for (size_t order = 0; order < 2; order++)
            for (size_t at = 0; at < nq / 2; at++) {
                size_t k = order ? nq / 2 - 1 - at : at;
                assert_int_equal(rng_brownian_increment(b, q[2 * k + 1], q[2 * k], got), 0);
                for (int i = 0; i < 64; i++)
                    if (!(fabs((double)got[i] - want[k * 64 + (size_t)i]) <= 2e-5))
                        fail_msg("seed %zu, query %zu, element %d: %g, want %g", s, k, i, (double)got[i], want[k * 64 + (size_t)i]);
            }
        rng_brownian_destroy(b);
        free(want);
    }
    free(q);
    vectors_close(&v);
}

static void test_rng_brownian__bounds(void **state)
{
    (void)state;
    RngBrownian *b = NULL;
    float w[16];
    assert_int_equal(rng_brownian_create(&b, 1, 2, 1, 16, draw_cpu, NULL), ERR_RANGE);
    assert_null(b);
    assert_int_equal(rng_brownian_create(&b, 1, 0, NAN, 16, draw_cpu, NULL), ERR_RANGE);
    assert_int_equal(rng_brownian_create(&b, 1, 1, 2, 16, draw_cpu, NULL), 0);
    assert_int_equal(rng_brownian_increment(b, 1.5, 1.5, w), 0);
    for (int i = 0; i < 16; i++)
        assert_true(w[i] == 0);
    assert_int_equal(rng_brownian_increment(b, 1.2345671, 1.2345679, w), 0);
    rng_brownian_destroy(b);
    rng_brownian_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rng_brownian__seed_sequence),
        cmocka_unit_test(test_rng_brownian__golden_increments),
        cmocka_unit_test(test_rng_brownian__bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
