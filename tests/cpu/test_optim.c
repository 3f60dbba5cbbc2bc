#include "cpu/harness.h"
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_optim__adamw_matches_double),
        cmocka_unit_test(test_cpu_optim__first_step_is_sign),
        cmocka_unit_test(test_cpu_optim__sumsq),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
