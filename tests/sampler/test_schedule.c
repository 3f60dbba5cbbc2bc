#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "sampler/schedule.h"
#include "sampler/vectors.h"

#define TABLES "tests/vectors/schedulers/tables.safetensors"

/* Largest relative error against the reference tensor. */
static double table_error(const Vectors *v, const char *name, const double *got, size_t count)
{
    size_t n = 0;
    double worst = 0, *want = vectors_get(v, name, &n);
    assert_non_null(want);
    assert_int_equal(n, count);
    for (size_t i = 0; i < n; i++)
        worst = fmax(worst, fabs(got[i] - want[i]) / fmax(fabs(want[i]), 1e-12));
    free(want);
    return worst;
}

static void test_sampler_schedule__golden_tables(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        SamplerBetas kind;
        double start, end;
        int zero_snr;
    } cases[] = {{"scaled_linear", SAMPLER_BETAS_SCALED_LINEAR, 0.00085, 0.012, 0},
                 {"linear", SAMPLER_BETAS_LINEAR, 0.0001, 0.02, 0},
                 {"squaredcos_cap_v2", SAMPLER_BETAS_COSINE, 0.0001, 0.02, 0},
                 {"scaled_linear_zsnr", SAMPLER_BETAS_SCALED_LINEAR, 0.00085, 0.012, 1}};
    static double betas[1000], bar[1000];
    Vectors v = {0};
    char name[80];
    assert_int_equal(vectors_open(&v, TABLES), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(sampler_betas(cases[i].kind, cases[i].start, cases[i].end, 1000, cases[i].zero_snr, betas), 0);
        sampler_alpha_bar(betas, 1000, bar);
        double tol = cases[i].zero_snr ? 1e-3 : 1e-6; /* the rescaling amplifies float rounding of small betas */
        snprintf(name, sizeof name, "%s/betas", cases[i].name);
        double eb = table_error(&v, name, betas, 1000);
        snprintf(name, sizeof name, "%s/alphas_cumprod", cases[i].name);
        double ea = table_error(&v, name, bar, cases[i].zero_snr ? 999 + 1 : 1000);
        if (!(eb <= tol && ea <= 10 * tol))
            fail_msg("%s: betas off by %g, alpha_bar by %g", cases[i].name, eb, ea);
    }
    assert_true(bar[999] == 0);
    vectors_close(&v);
}

static void test_sampler_schedule__golden_noise_and_velocity(void **state)
{
    (void)state;
    static double betas[1000], bar[1000];
    size_t n = 0, m = 0;
    Vectors v = {0};
    assert_int_equal(vectors_open(&v, TABLES), 0);
    assert_int_equal(sampler_betas(SAMPLER_BETAS_SCALED_LINEAR, 0.00085, 0.012, 1000, 0, betas), 0);
    sampler_alpha_bar(betas, 1000, bar);
    float *x = vectors_get_f32(&v, "add_noise/sample", &n), *z = vectors_get_f32(&v, "add_noise/noise", &n);
    double *noisy = vectors_get(&v, "add_noise/noisy", &n), *vel = vectors_get(&v, "add_noise/velocity", &n);
    double *t = vectors_get(&v, "add_noise/timesteps", &m), *snr = vectors_get(&v, "add_noise/snr", &m);
    double *we = vectors_get(&v, "add_noise/min_snr5_weight_eps", &m), *wv = vectors_get(&v, "add_noise/min_snr5_weight_v", &m);
    float *out = malloc(n * sizeof *out);
    size_t per = n / m;
    for (size_t i = 0; i < m; i++) {
        double ab = bar[(int)t[i]];
        sampler_add_noise(out, x + i * per, z + i * per, ab, per);
        for (size_t k = 0; k < per; k++)
            assert_true(fabs((double)out[k] - noisy[i * per + k]) <= 1e-6);
        sampler_velocity(out, x + i * per, z + i * per, ab, per);
        for (size_t k = 0; k < per; k++)
            assert_true(fabs((double)out[k] - vel[i * per + k]) <= 1e-6);
        assert_true(fabs(sampler_snr(ab) - snr[i]) <= 1e-4 * snr[i]);
        assert_true(fabs(sampler_min_snr_weight(ab, 5, SAMPLER_PREDICT_EPSILON) - we[i]) <= 1e-4 * we[i]);
        assert_true(fabs(sampler_min_snr_weight(ab, 5, SAMPLER_PREDICT_V) - wv[i]) <= 1e-4 * wv[i]);
    }
    free(x);
    free(z);
    free(noisy);
    free(vel);
    free(t);
    free(snr);
    free(we);
    free(wv);
    free(out);
    vectors_close(&v);
}

static void test_sampler_schedule__guidance(void **state)
{
    (void)state;
    float u[3] = {1, 2, -1}, c[3] = {2, 0, -1}, g[3];
    sampler_guide(g, u, c, 7.5, 3);
    assert_true(g[0] == 8.5f && g[1] == -13.0f && g[2] == -1.0f);
    sampler_guide(g, u, c, 1, 3);
    assert_true(g[0] == 2 && g[1] == 0 && g[2] == -1);
    /* std(c) = sqrt(7/3), std(2c) twice that: full rescale restores c, half lies between. */
    float d[3] = {4, 0, -2};
    sampler_guide_rescale(d, c, 1, 3);
    assert_true(fabsf(d[0] - 2) < 1e-6f && fabsf(d[2] + 1) < 1e-6f);
    float h[3] = {4, 0, -2};
    sampler_guide_rescale(h, c, 0.5, 3);
    assert_true(fabsf(h[0] - 3) < 1e-6f);
    float flat[2] = {1, 1}, other[2] = {0, 5};
    sampler_guide_rescale(flat, other, 1, 2);
    assert_true(flat[0] == 1 && flat[1] == 1);
}

static void test_sampler_schedule__first_step_of_img2img(void **state)
{
    (void)state;
    assert_int_equal(sampler_first_step(8, 0.6), 4); /* int(4.8) = 4 steps run */
    assert_int_equal(sampler_first_step(8, 0.35), 6);
    assert_int_equal(sampler_first_step(8, 1), 0);
    assert_int_equal(sampler_first_step(8, 2), 0);
    assert_int_equal(sampler_first_step(8, 0), 8);
    assert_int_equal(sampler_first_step(8, 0.1), 8);
}

static void test_sampler_schedule__rejects(void **state)
{
    (void)state;
    double b[4];
    SamplerBetas kind;
    SamplerPredict p;
    assert_int_equal(sampler_betas(SAMPLER_BETAS_LINEAR, 0.1, 0.2, 0, 0, b), ERR_RANGE);
    assert_int_equal(sampler_betas(SAMPLER_BETAS_LINEAR, 0.2, 0.1, 4, 0, b), ERR_RANGE);
    assert_int_equal(sampler_betas(SAMPLER_BETAS_LINEAR, 0, 0.1, 4, 0, b), ERR_RANGE);
    assert_int_equal(sampler_betas(SAMPLER_BETAS_LINEAR, NAN, 0.1, 4, 0, b), ERR_RANGE);
    assert_int_equal(sampler_betas(SAMPLER_BETAS_LINEAR, 0.1, 1, 4, 0, b), ERR_RANGE);
    assert_int_equal(sampler_betas_parse("sigmoid", &kind), ERR_RANGE);
    assert_non_null(strstr(err_message(), "scaled_linear"));
    assert_int_equal(sampler_predict_parse("flow_prediction", &p), ERR_RANGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampler_schedule__golden_tables),
        cmocka_unit_test(test_sampler_schedule__golden_noise_and_velocity),
        cmocka_unit_test(test_sampler_schedule__guidance),
        cmocka_unit_test(test_sampler_schedule__first_step_of_img2img),
        cmocka_unit_test(test_sampler_schedule__rejects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
