#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "sampler/solver.h"
#include "sampler/vectors.h"

#define DIR "tests/vectors/schedulers/"

/* Reference runs whose settings are refused. */
static const char *const refused[] = {"euler_beta", "dpmpp_3m", "dpm_2m_sigma_min", "dpmpp_2m_lu_lambdas", "dpmpp_2m_flow"};

static int is_refused(const char *id)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (strcmp(id, refused[i]) == 0)
            return 1;
    return 0;
}

static int is_ours(const char *cls)
{
    static const char *const ours[] = {"DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler",
                                       "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strcmp(cls, ours[i]) == 0)
            return 1;
    return 0;
}

/* The reference's stand-in for a network. */
static void fake_model(float *out, const float *x, double scale, double t, size_t n)
{
    float s = (float)sin(0.01 * t);
    for (size_t k = 0; k < n; k++)
        out[k] = 0.1f * (float)(scale * (double)x[k]) + s;
}

static void check_tables(const Sampler *s, const Vectors *v, const char *prefix, const char *id)
{
    char name[160];
    size_t n = 0;
    snprintf(name, sizeof name, "%stimesteps", prefix);
    double *t = vectors_get(v, name, &n);
    if ((int)n != sampler_count(s))
        fail_msg("%s: %d calls, want %zu", id, sampler_count(s), n);
    for (size_t i = 0; i < n; i++) {
        double got = sampler_timestep(s, (int)i), tol = t[i] == floor(t[i]) ? 0 : 3e-5 * t[i] + 1e-3;
        if (fabs(got - t[i]) > tol)
            fail_msg("%s: timestep %zu is %.9g, want %.9g", id, i, got, t[i]);
    }
    free(t);
    snprintf(name, sizeof name, "%ssigmas", prefix);
    double *g = vectors_get(v, name, &n);
    for (size_t i = 0; g && i < n; i++) {
        double got = sampler_sigma(s, (int)i);
        if (fabs(got - g[i]) > 3e-5 * g[i])
            fail_msg("%s: sigma %zu is %.9g, want %.9g", id, i, got, g[i]);
    }
    free(g);
}

/* Runs one reference trajectory; returns the largest error relative to the largest value. */
static double run_case(Sampler *s, const Vectors *v, const char *prefix, const char *id, size_t copies)
{
    char name[160];
    size_t n = 0, ntraj = 0, nnoise = 0;
    float *x0 = vectors_get_f32(v, "x0", &n);
    snprintf(name, sizeof name, "%straj", prefix);
    float *traj = vectors_get_f32(v, name, &ntraj);
    snprintf(name, sizeof name, "%snoise", prefix);
    float *noise = vectors_get_f32(v, name, &nnoise);
    float *x = malloc(copies * n * sizeof *x), *m = malloc(copies * n * sizeof *m), *z = malloc(copies * n * sizeof *z);
    double worst = 0, top = 0;
    assert_int_equal(ntraj, n * (size_t)(sampler_count(s) + 1));
    for (size_t k = 0; k < ntraj; k++)
        top = fmax(top, fabs((double)traj[k]));
    for (size_t k = 0; k < copies * n; k++)
        x[k] = (float)(sampler_init_noise_sigma(s) * (double)x0[k % n]);
    sampler_reset(s);
    for (int i = 0; i < sampler_count(s); i++) {
        fake_model(m, x, sampler_scale_input(s, i), sampler_timestep(s, i), copies * n);
        for (size_t k = 0; k < copies * n && noise; k++)
            z[k] = noise[(size_t)i * n + k % n];
        const float *zi = sampler_needs_noise(s, i) ? z : NULL;
        if (zi && (size_t)(i + 1) * n > nnoise)
            fail_msg("%s: noise at call %d, the reference drew none", id, i);
        assert_int_equal(sampler_step(s, i, x, m, zi, copies * n), 0);
        for (size_t k = 0; k < copies * n; k++)
            worst = fmax(worst, fabs((double)x[k] - (double)traj[(size_t)(i + 1) * n + k % n]));
    }
    free(x0);
    free(traj);
    free(noise);
    free(x);
    free(m);
    free(z);
    return worst / top;
}

static char *config_text(const json_t *c)
{
    json_t *j = json_deep_copy(json_object_get(c, "config"));
    json_object_set(j, "_class_name", json_object_get(c, "cls"));
    char *text = json_dumps(j, 0);
    json_decref(j);
    return text;
}

static void test_sampler_solver__golden_trajectories(void **state)
{
    (void)state;
    Vectors v = {0};
    json_error_t e;
    json_t *cases = json_load_file(DIR "cases.json", 0, &e), *c, *run;
    const char *id, *steps;
    int ran = 0, nrefused = 0;
    assert_non_null(cases);
    assert_int_equal(vectors_open(&v, DIR "trajectories.safetensors"), 0);
    json_object_foreach(cases, id, c)
    {
        SamplerConf conf;
        Sampler *s;
        if (!is_ours(json_string_value(json_object_get(c, "cls"))))
            continue;
        char *text = config_text(c);
        int rc = sampler_conf_from_text(&conf, text, id);
        if (rc == 0)
            rc = sampler_conf_check(&conf);
        free(text);
        assert_int_equal(rc, is_refused(id) ? ERR_UNSUPPORTED : 0);
        if (rc < 0) {
            nrefused++;
            continue;
        }
        conf.eta = json_number_value(json_object_get(json_object_get(c, "step"), "eta"));
        json_object_foreach(json_object_get(c, "runs"), steps, run)
        {
            char prefix[128];
            conf.steps = atoi(steps);
            snprintf(prefix, sizeof prefix, "%s/N%s/", id, steps);
            if (sampler_create(&s, &conf, 2 * 64) < 0)
                fail_msg("%s: %s", id, err_message());
            check_tables(s, &v, prefix, id);
            double want = json_number_value(json_object_get(run, "init_noise_sigma"));
            assert_true(fabs(sampler_init_noise_sigma(s) - want) <= 3e-5 * want);
            for (size_t copies = 1; copies <= 2; copies++) { /* twice: reset and batches change nothing */
                double err = run_case(s, &v, prefix, id, copies);
                if (!(err <= 1e-4))
                    fail_msg("%s: relative error %g", prefix, err);
            }
            sampler_destroy(s);
            ran++;
        }
    }
    assert_int_equal(nrefused, (int)(sizeof refused / sizeof *refused));
    assert_int_equal(ran, 3 * 54);
    vectors_close(&v);
    json_decref(cases);
}

static Sampler *make(const char *kind, int steps, size_t n)
{
    SamplerConf c;
    Sampler *s = NULL;
    sampler_conf_default(&c);
    c.steps = steps;
    assert_int_equal(sampler_conf_set_kind(&c, kind), 0);
    assert_int_equal(sampler_conf_set_spacing(&c, "leading"), 0);
    if (sampler_create(&s, &c, n) < 0)
        fail_msg("%s", err_message());
    return s;
}

/* A perfect epsilon model at every level leads back to x0 exactly, from any starting call. */
static void test_sampler_solver__img2img_start(void **state)
{
    (void)state;
    static const char *const kinds[] = {"ddim", "pndm", "euler", "heun", "dpmpp_2m"};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        Sampler *s = make(kinds[k], 10, 3);
        const float x0[3] = {0.5f, -2, 1}, noise[3] = {1, -0.3f, 0.2f};
        static const double strength[] = {1, 0.7, 0.4, 0.1};
        for (int q = 0; q < 4; q++) {
            float x[3], m[3];
            int i = sampler_begin_at(s, strength[q]);
            assert_true(i < sampler_count(s));
            sampler_reset(s);
            assert_int_equal(sampler_noise_to(s, i, x, x0, noise, 3), 0);
            for (; i < sampler_count(s); i++) {
                memcpy(m, noise, sizeof m);
                assert_int_equal(sampler_step(s, i, x, m, NULL, 3), 0);
            }
            /* DDIM and PNDM stop at alpha_bar[0]: 0.03 of noise is left. */
            for (int j = 0; j < 3; j++)
                assert_true(fabsf(x[j] - x0[j]) < 0.04f);
        }
        assert_int_equal(sampler_begin_at(s, 1), 0);
        assert_int_equal(sampler_begin_at(s, 0), sampler_count(s));
        assert_int_equal(sampler_begin_at(s, 0.35), strcmp(kinds[k], "heun") == 0 ? 14 : strcmp(kinds[k], "pndm") == 0 ? 8 : 7);
        sampler_destroy(s);
    }
}

static void test_sampler_solver__denoised_is_x0(void **state)
{
    (void)state;
    Sampler *s = make("ddim", 5, 2);
    const float x0[2] = {0.7f, -1}, noise[2] = {0.2f, 1.5f};
    float x[2];
    assert_null(sampler_denoised(s));
    assert_int_equal(sampler_noise_to(s, 0, x, x0, noise, 2), 0);
    assert_int_equal(sampler_step(s, 0, x, noise, NULL, 2), 0);
    assert_true(fabsf(sampler_denoised(s)[0] - 0.7f) < 1e-5f && fabsf(sampler_denoised(s)[1] + 1) < 1e-5f);
    sampler_reset(s);
    assert_null(sampler_denoised(s));
    sampler_destroy(s);
}

static void test_sampler_solver__misuse_is_an_error(void **state)
{
    (void)state;
    float x[4] = {0}, m[4] = {0};
    Sampler *s = make("heun", 5, 4);
    assert_int_equal(sampler_step(s, -1, x, m, NULL, 4), ERR_RANGE);
    assert_int_equal(sampler_step(s, 9, x, m, NULL, 4), ERR_RANGE);
    assert_int_equal(sampler_step(s, 1, x, m, NULL, 4), ERR_RANGE); /* between the two calls of a step */
    assert_int_equal(sampler_step(s, 0, x, m, NULL, 5), ERR_RANGE);
    assert_int_equal(sampler_step(s, 0, x, m, NULL, 4), 0);
    assert_int_equal(sampler_step(s, 2, x, m, NULL, 4), ERR_RANGE);
    assert_int_equal(sampler_step(s, 1, x, m, NULL, 3), ERR_RANGE);
    assert_int_equal(sampler_step(s, 1, x, m, NULL, 4), 0);
    sampler_destroy(s);
    s = make("euler_a", 5, 4);
    assert_int_equal(sampler_needs_noise(s, 0), 1);
    assert_int_equal(sampler_needs_noise(s, 4), 0); /* down to sigma 0 */
    assert_int_equal(sampler_step(s, 0, x, m, NULL, 4), ERR_RANGE);
    sampler_destroy(s);
    sampler_destroy(NULL);
}

static void test_sampler_solver__betas_without_signal_are_refused(void **state)
{
    (void)state;
    SamplerConf c;
    Sampler *s = NULL;
    sampler_conf_default(&c);
    c.beta_end = 0.9;
    assert_int_equal(sampler_create(&s, &c, 4), ERR_RANGE);
    assert_null(s);
    c.zero_snr = 1;
    c.predict = SAMPLER_PREDICT_V;
    assert_int_equal(sampler_create(&s, &c, 4), ERR_RANGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampler_solver__golden_trajectories),
        cmocka_unit_test(test_sampler_solver__img2img_start),
        cmocka_unit_test(test_sampler_solver__denoised_is_x0),
        cmocka_unit_test(test_sampler_solver__misuse_is_an_error),
        cmocka_unit_test(test_sampler_solver__betas_without_signal_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
