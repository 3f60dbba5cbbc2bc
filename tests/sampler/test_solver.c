#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "sampler/solver.h"
#include "sampler/vectors.h"

#define DIR "tests/vectors/schedulers/"

/* Reference runs of models that are not diffusion in x0 + sigma noise: refused. */
static int is_refused(const char *id) { return strstr(id, "flow") != NULL; }

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
    int two_calls = strncmp(id, "dpm2", 4) == 0;
    snprintf(name, sizeof name, "%ssigmas", prefix);
    double *g = vectors_get(v, name, &n);
    for (size_t i = 0; g && i < n; i++) {
        double got = sampler_sigma(s, (int)i);
        if (two_calls && i % 2) /* the reference lists the end of the step, we the level of the call */
            continue;
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
    size_t draws = 0;
    assert_int_equal(ntraj, n * (size_t)(sampler_count(s) + 1));
    for (size_t k = 0; k < ntraj; k++)
        top = fmax(top, fabs((double)traj[k]));
    for (size_t k = 0; k < copies * n; k++)
        x[k] = (float)(sampler_init_noise_sigma(s) * (double)x0[k % n]);
    sampler_reset(s);
    for (int i = 0; i < sampler_count(s); i++) {
        fake_model(m, x, sampler_scale_input(s, i), sampler_timestep(s, i), copies * n);
        const float *zi = sampler_needs_noise(s, i) ? z : NULL;
        if (zi && (draws + 1) * n > nnoise)
            fail_msg("%s: noise at call %d, the reference drew none", id, i);
        for (size_t k = 0; k < copies * n && zi; k++)
            z[k] = noise[draws * n + k % n];
        draws += zi != NULL;
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
        const json_t *eta = json_object_get(json_object_get(c, "step"), "eta");
        conf.eta = eta ? json_number_value(eta) : -1;
        conf.rules = SAMPLER_RULES_DIFFUSERS;
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
    assert_int_equal(nrefused, 8);
    assert_int_equal(ran, 3 * 80);
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

/* A model that always answers with the true noise leads back to the source, from any strength, under all rules. Latents whose scale is
 * not 1 at the end (ComfyUI's first noise beyond sigma_max, A1111's UniPC start) are given some room. */
static void test_sampler_solver__img2img_leads_back_to_the_source(void **state)
{
    (void)state;
    static const double strength[] = {1, 0.7, 0.4, 0.1};
    for (int rules = SAMPLER_RULES_ATELIER; rules <= SAMPLER_RULES_A1111; rules++) {
        for (int kind = 0; kind < SAMPLER_KINDS; kind++) {
            for (int q = 0; q < 4; q++) {
                SamplerConf c;
                Sampler *s = NULL;
                const float x0[3] = {0.5f, -2, 1}, noise[3] = {1, -0.3f, 0.2f};
                float x[3], m[3], in[3];
                sampler_conf_default(&c);
                c.steps = 10;
                c.strength = strength[q];
                c.rules = (SamplerRules)rules;
                c.eta = 0;
                assert_int_equal(sampler_conf_set_kind(&c, sampler_kind_name((SamplerKind)kind)), 0);
                c.clip_sample = 0;
                if (sampler_create(&s, &c, 3) < 0)
                    fail_msg("%s: %s", sampler_kind_name((SamplerKind)kind), err_message());
                sampler_start(s, x, noise, x0, 3);
                for (int i = sampler_begin(s); i < sampler_count(s); i++) {
                    sampler_input(s, i, in, x, 3);
                    memcpy(m, noise, sizeof m);
                    if (sampler_step(s, i, x, m, sampler_needs_noise(s, i) ? noise : NULL, 3) < 0)
                        fail_msg("%s: %s", sampler_kind_name((SamplerKind)kind), err_message());
                }
                /* DDPM and LCM add noise; A1111's solvers by timestep note the source a step above their first call. */
                int by_time = c.kind == SAMPLER_DDIM || c.kind == SAMPLER_PNDM || c.kind == SAMPLER_UNIPC;
                int exact = c.kind != SAMPLER_DDPM && c.kind != SAMPLER_LCM && !(rules == SAMPLER_RULES_A1111 && by_time && q > 0);
                float room = c.kind == SAMPLER_TCD && rules > SAMPLER_RULES_DIFFUSERS ? 0.1f : 0.06f; /* ends with the noise of timestep 0 */
                for (int j = 0; j < 3 && exact; j++)
                    if (!(fabsf(x[j] - x0[j]) < room))
                        fail_msg("rules %d, %s, strength %g: %g, want %g", rules, sampler_kind_name((SamplerKind)kind), strength[q],
                                 (double)x[j], (double)x0[j]);
                sampler_destroy(s);
            }
        }
    }
}

/* First calls: min(int(S d), S) steps run (diffusers), int(S / d) laid of which S run (ComfyUI), int(S d) + 1 run (A1111). */
static void test_sampler_solver__img2img_start(void **state)
{
    (void)state;
    static const struct {
        SamplerRules rules;
        const char *kind;
        double strength;
        int calls;
    } cases[] = {
        {SAMPLER_RULES_ATELIER, "ddim", 1, 20},    {SAMPLER_RULES_ATELIER, "ddim", 0, 0},       {SAMPLER_RULES_ATELIER, "ddim", 0.76, 15},
        {SAMPLER_RULES_ATELIER, "heun", 0.35, 13}, {SAMPLER_RULES_DIFFUSERS, "pndm", 0.35, 7},  {SAMPLER_RULES_DIFFUSERS, "pndm", 1, 21},
        {SAMPLER_RULES_COMFY, "euler", 0.5, 20},   {SAMPLER_RULES_COMFY, "euler", 0, 0},        {SAMPLER_RULES_COMFY, "dpm_2", 0.3, 39},
        {SAMPLER_RULES_A1111, "euler", 0.5, 11},   {SAMPLER_RULES_A1111, "Euler a", 1, 20},     {SAMPLER_RULES_A1111, "euler", 0, 1},
        {SAMPLER_RULES_A1111, "DDIM", 1, 19},      {SAMPLER_RULES_A1111, "DDIM", 0.5, 9},       {SAMPLER_RULES_A1111, "PLMS", 1, 20},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        SamplerConf c;
        Sampler *s = NULL;
        sampler_conf_default(&c);
        c.steps = 20;
        c.strength = cases[k].strength;
        c.rules = cases[k].rules;
        assert_int_equal(sampler_conf_set_kind(&c, cases[k].kind), 0);
        if (sampler_create(&s, &c, 1) < 0)
            fail_msg("%s", err_message());
        if (sampler_count(s) - sampler_begin(s) != cases[k].calls)
            fail_msg("case %zu: %d calls, want %d", k, sampler_count(s) - sampler_begin(s), cases[k].calls);
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
        cmocka_unit_test(test_sampler_solver__img2img_leads_back_to_the_source),
        cmocka_unit_test(test_sampler_solver__img2img_start),
        cmocka_unit_test(test_sampler_solver__denoised_is_x0),
        cmocka_unit_test(test_sampler_solver__misuse_is_an_error),
        cmocka_unit_test(test_sampler_solver__betas_without_signal_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
