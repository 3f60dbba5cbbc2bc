#include "cpu/harness.h"
#include "cpu/ties.h"
#include "ops/optim.h"

#include <omp.h>

/* Ten steps of torch.optim.AdamW written out in double. */
static void test_cpu_optim__adamw_matches_double(void **state)
{
    (void)state;
    enum { N = 50003 };
    float *p = malloc(N * sizeof *p), *m = calloc(N, sizeof *m), *v = calloc(N, sizeof *v), *g = malloc(N * sizeof *g);
    double *dp = malloc(N * sizeof *dp), *dm = calloc(N, sizeof *dm), *dv = calloc(N, sizeof *dv);
    for (int i = 0; i < N; i++)
        dp[i] = (double)(p[i] = (float)uniform(1, i, -1, 1));
    OptimAdamw o = {.lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 1e-2f, .grad_scale = 0.5f};
    for (o.step = 1; o.step <= 10; o.step++) {
        double lr = (double)o.lr, b1 = (double)o.beta1, b2 = (double)o.beta2, t = (double)o.step;
        for (int i = 0; i < N; i++) {
            g[i] = (float)uniform((uint64_t)o.step + 7, i, -1, 1);
            double d = 0.5 * (double)g[i];
            dm[i] = b1 * dm[i] + (1 - b1) * d;
            dv[i] = b2 * dv[i] + (1 - b2) * d * d;
            dp[i] *= 1 - lr * (double)o.weight_decay;
            dp[i] -= lr / (1 - pow(b1, t)) * dm[i] / (sqrt(dv[i] / (1 - pow(b2, t))) + (double)o.eps);
        }
        cpu_optim_adamw(p, m, v, g, N, &o);
    }
    for (int i = 0; i < N; i++)
        if (!(fabs((double)p[i] - dp[i]) < 1e-6))
            fail_msg("p[%d] is %.9g, expected %.9g", i, (double)p[i], dp[i]);
    free(p), free(m), free(v), free(g), free(dp), free(dm), free(dv);
}

/* A first step without decay moves every parameter by lr against the gradient's sign. */
static void test_cpu_optim__first_step_is_sign(void **state)
{
    (void)state;
    float p[3] = {1, 1, 1}, m[3] = {0}, v[3] = {0}, g[3] = {5, -0.01f, 0};
    OptimAdamw o = {.lr = 0.1f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-12f, .step = 1, .grad_scale = 1};
    cpu_optim_adamw(p, m, v, g, 3, &o);
    assert_true(fabsf(p[0] - 0.9f) < 1e-6f && fabsf(p[1] - 1.1f) < 1e-6f && p[2] == 1);
}

static void test_cpu_optim__sumsq(void **state)
{
    (void)state;
    enum { N = 4096 * 700 + 11 };
    float *x = malloc(N * sizeof *x);
    double want = 0, got[4];
    for (int i = 0; i < N; i++) {
        x[i] = (float)uniform(3, i, -2, 2);
        want += (double)x[i] * (double)x[i];
    }
    for (int t = 1; t <= 4; t++) {
        omp_set_num_threads(t);
        got[t - 1] = cpu_optim_sumsq(x, N);
        assert_memory_equal(&got[t - 1], &got[0], sizeof got[0]);
    }
    assert_true(fabs(got[0] - want) < 1e-10 * want);
    assert_true(cpu_optim_sumsq(x, 0) == 0);
    x[0] = 1e30f; /* its square is no float */
    assert_true(fabs(cpu_optim_sumsq(x, 3) - 1e60) < 1e55);
    free(x);
}

/* Values a tenth, a half, ... of the way from one bf16 to the next go up that often, and nowhere else. */
static void test_cpu_optim__round_bf16(void **state)
{
    (void)state;
    enum { N = 40000, STEP = 1 << 16 };
    static const uint32_t part[] = {0, 1, 6554, 32768, 49152, 65535};
    static const float from[] = {1, -1, 1.9921875f, -3e-39f, 1e30f};
    static float p[N], again[N];
    uint32_t bits, got;
    for (size_t f = 0; f < sizeof from / sizeof *from; f++)
        for (size_t k = 0; k < sizeof part / sizeof *part; k++) {
            int64_t up = 0;
            memcpy(&bits, &from[f], sizeof bits);
            bits = bits / STEP * STEP + part[k];
            for (int i = 0; i < N; i++)
                memcpy(&p[i], &bits, sizeof bits);
            RngKey key = rng_key(1, RNG_ROUND, f, k);
            memcpy(again, p, sizeof p);
            omp_set_num_threads(1);
            cpu_optim_round_bf16(p, N, key);
            omp_set_num_threads(3);
            cpu_optim_round_bf16(again, N, key);
            assert_memory_equal(p, again, sizeof p);
            for (int i = 0; i < N; i++) {
                memcpy(&got, &p[i], sizeof got);
                assert_true(got == bits / STEP * STEP || got == bits / STEP * STEP + STEP);
                up += got != bits / STEP * STEP;
            }
            double share = part[k] / 65536.0, sigma = sqrt(N * share * (1 - share));
            if (fabs((double)up - N * share) > 4 * sigma)
                fail_msg("%lld of %d values go up, expected %g +- %g", (long long)up, N, N * share, sigma);
        }
    float special[3] = {INFINITY, -INFINITY, NAN};
    cpu_optim_round_bf16(special, 3, rng_key(1, RNG_ROUND, 0, 0));
    assert_true(special[0] == INFINITY && special[1] == -INFINITY && isnan(special[2]));
}

/* Steps far below half a unit in the last place: with rounding to the nearest nothing would move. */
static void test_cpu_optim__bf16_values_move(void **state)
{
    (void)state;
    enum { N = 4096, STEPS = 100 };
    static float p[N], m[N], v[N], g[N];
    double mean = 0;
    for (int i = 0; i < N; i++) {
        p[i] = 1;
        g[i] = 1;
    }
    OptimAdamw o = {.lr = 1e-4f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .grad_scale = 1};
    for (o.step = 1; o.step <= STEPS; o.step++) {
        cpu_optim_adamw(p, m, v, g, N, &o);
        cpu_optim_round_bf16(p, N, rng_key(1, RNG_ROUND, 0, (uint64_t)o.step));
    }
    for (int i = 0; i < N; i++)
        mean += (double)p[i] / N;
    assert_true(fabs(mean - (1 - STEPS * 1e-4)) < 3e-4); /* of one value: about 0.006 */
}

/* Where two values of the map are as near, the lower one is taken. */
static void test_cpu_optim__adamw8_ties(void **state)
{
    (void)state;
    OptimAdamw o = {.lr = 1e-3f, .eps = 1e-8f, .step = 1, .grad_scale = 1};
    for (int square = 0; square < 2; square++) {
        float p[OPTIM_BLOCK] = {0}, g[OPTIM_BLOCK], top[2] = {0};
        uint8_t code[2][OPTIM_BLOCK] = {{0}}, want[OPTIM_BLOCK];
        int ties = tie_gradient(g, want, square);
        assert_true(ties > 50 && ties < OPTIM_BLOCK);
        cpu_optim_adamw8(p, code[0], &top[0], code[1], &top[1], g, OPTIM_BLOCK, &o);
        assert_true(top[0] == 1 && top[1] == 1);
        for (int k = 0; k < ties; k++)
            if (code[square][k] != want[k])
                fail_msg("a value between %d and %d becomes %d", want[k], want[k] + 1, code[square][k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_optim__adamw_matches_double),
        cmocka_unit_test(test_cpu_optim__first_step_is_sign),
        cmocka_unit_test(test_cpu_optim__sumsq),
        cmocka_unit_test(test_cpu_optim__adamw8_ties),
        cmocka_unit_test(test_cpu_optim__round_bf16),
        cmocka_unit_test(test_cpu_optim__bf16_values_move),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
