/* Sigma lists and trajectories by the rules of ComfyUI and A1111 against k-diffusion (tests/peers/make_kdiffusion.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "sampler/solver.h"
#include "sampler/vectors.h"

enum { N = 64, STEPS = 7 };

static Vectors vectors;

static int open_vectors(void **state)
{
    (void)state;
    return vectors_open(&vectors, "tests/vectors/schedulers/kdiffusion.safetensors");
}

static int close_vectors(void **state)
{
    (void)state;
    vectors_close(&vectors);
    return 0;
}

/* "rules/sampler/schedule[/variant]" */
static int conf_of(const char *id, SamplerConf *c)
{
    char text[96];
    snprintf(text, sizeof text, "%s", id);
    char *save = NULL, *rules = strtok_r(text, "/", &save), *kind = strtok_r(NULL, "/", &save), *schedule = strtok_r(NULL, "/", &save);
    char *variant = strtok_r(NULL, "/", &save);
    sampler_conf_default(c);
    c->steps = STEPS;
    c->rules = strcmp(rules, "comfy") == 0 ? SAMPLER_RULES_COMFY : SAMPLER_RULES_A1111;
    if (sampler_conf_set_kind(c, strcmp(kind, "ipndm") == 0 ? "pndm" : kind) < 0)
        return -1;
    if (schedule && sampler_conf_set_spacing(c, schedule) < 0)
        return -1;
    if (variant && strcmp(variant, "v") == 0)
        c->predict = SAMPLER_PREDICT_V;
    if (variant && strcmp(variant, "eta") == 0)
        c->eta = 0.6, c->s_noise = 1.01;
    if (variant && strcmp(variant, "still") == 0)
        c->eta = 0;
    if (variant && (strcmp(variant, "img2img") == 0 || strcmp(variant, "inpaint") == 0))
        c->strength = 0.6;
    if (variant && strcmp(variant, "churn") == 0)
        c->s_churn = 2, c->s_tmin = 0.1, c->s_tmax = 9, c->s_noise = 1.003;
    return 0;
}

static double run_case(const char *id, const float *x0, const float *noise, const double *want)
{
    SamplerConf c;
    Sampler *s = NULL;
    float x[N], in[N], m[N];
    int draws = 0, step = 0;
    double worst = 0, top = 0;
    if (conf_of(id, &c) < 0 || sampler_create(&s, &c, N) < 0)
        fail_msg("%s: %s", id, err_message());
    double first = c.rules == SAMPLER_RULES_COMFY && sampler_scale_input(s, 0) < 1 ? sampler_sigma(s, 0) : sampler_init_noise_sigma(s);
    for (int k = 0; k < N; k++)
        x[k] = (float)(first * (double)x0[k]);
    sampler_reset(s);
    const float *source = noise + 19 * N;
    float repaint[N];
    for (int k = 0; k < N; k++)
        repaint[k] = (float)(k % 3) / 2;
    if (c.strength < 1)
        sampler_start(s, x, x0, source, N);
    if (strstr(id, "/inpaint"))
        sampler_inpaint(s, &(SamplerInpaint){repaint, source, x0});
    for (int i = sampler_begin(s); i < sampler_count(s); i++) {
        if (c.s_churn > 0 && sampler_needs_churn(s, i))
            sampler_churn(s, i, x, noise + step * N, N); /* the reference draws at every step */
        sampler_input(s, i, in, x, N);
        for (int k = 0; k < N; k++)
            m[k] = 0.1f * in[k] + (float)sin(0.01 * sampler_timestep(s, i));
        int noisy = sampler_needs_noise(s, i);
        if (sampler_step(s, i, x, m, noisy ? noise + draws * N : NULL, N) < 0)
            fail_msg("%s: %s", id, err_message());
        draws += noisy;
        int two = c.kind == SAMPLER_HEUN || c.kind == SAMPLER_DPM2;
        step += !two || i % 2;
    }
    for (int k = 0; k < N; k++) {
        top = fmax(top, fabs(want[k]));
        worst = fmax(worst, fabs((double)x[k] - want[k]));
    }
    sampler_destroy(s);
    return worst / top;
}

static void test_sampler_kdiffusion__golden_trajectories(void **state)
{
    (void)state;
    size_t n = 0;
    int ran = 0, failed = 0;
    float *x0 = vectors_get_f32(&vectors, "x0", &n), *noise = vectors_get_f32(&vectors, "noise", &n);
    const char *id;
    json_t *tensor;
    json_object_foreach(vectors.header, id, tensor)
    {
        const char *kind = strchr(id, '/');
        int timed = strcmp(id, "a1111/ddim") == 0 || strcmp(id, "a1111/plms") == 0;
        if (!kind || (!strchr(kind + 1, '/') && !timed))
            continue;
        double *want = vectors_get(&vectors, id, &n);
        double err = run_case(id, x0, noise, want);
        /* The middles of this schedule's steps lie half-way between two timesteps of the table: float decides which is nearer. */
        int tie = strcmp(id, "comfy/dpm2/beta") == 0 || strcmp(id, "comfy/dpm2_a/beta") == 0;
        if (!(err <= (tie ? 1e-3 : 5e-5))) {
            print_error("%s: relative error %g\n", id, err);
            failed++;
        }
        free(want);
        ran++;
    }
    free(x0);
    free(noise);
    assert_int_equal(failed, 0);
    assert_int_equal(ran, 352);
}

static void test_sampler_kdiffusion__golden_sigmas(void **state)
{
    (void)state;
    static const char *const schedule[] = {"normal", "karras", "exponential", "polyexponential", "sgm_uniform", "simple",
                                           "ddim_uniform", "beta", "kl_optimal", "ays", "ays_sdxl"};
    for (int a1111 = 0; a1111 < 2; a1111++)
        for (size_t k = 0; k < sizeof schedule / sizeof *schedule; k++) {
            SamplerConf c;
            Sampler *s = NULL;
            char id[64];
            size_t n = 0;
            snprintf(id, sizeof id, "%s/euler/%s", a1111 ? "a1111" : "comfy", schedule[k]);
            assert_int_equal(conf_of(id, &c), 0);
            if (sampler_create(&s, &c, 1) < 0)
                fail_msg("%s: %s", id, err_message());
            snprintf(id, sizeof id, "%s/%s", a1111 ? "a1111" : "comfy", schedule[k]);
            double *want = vectors_get(&vectors, id, &n);
            if ((int)n != sampler_count(s) + 1)
                fail_msg("%s: %d levels, want %zu", id, sampler_count(s) + 1, n);
            for (size_t i = 0; i < n; i++)
                if (!(fabs(sampler_sigma(s, (int)i) - want[i]) <= 2e-6 * want[i]))
                    fail_msg("%s: sigma %zu is %.9g, want %.9g", id, i, sampler_sigma(s, (int)i), want[i]);
            free(want);
            sampler_destroy(s);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampler_kdiffusion__golden_sigmas),
        cmocka_unit_test(test_sampler_kdiffusion__golden_trajectories),
    };
    return cmocka_run_group_tests(tests, open_vectors, close_vectors);
}
