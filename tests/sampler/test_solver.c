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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampler_solver__golden_trajectories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
