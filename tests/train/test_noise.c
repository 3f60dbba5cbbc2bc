/* Noise, targets and weights against kohya's formulas in PyTorch and diffusers (tests/peers/make_noise.py). Limit 2e-6 of values of about 1
 * (float rounding of a few operations); weights 1e-6 relative. */
#include "models/fixture.h"
#include "train/noise.h"
#include "train/unit.h"

enum { H = 8, W = 12, C = 4, N = H * W * C };
static const int steps[5] = {0, 1, 250, 600, 999};

typedef struct {
    IoSafetensors *f;
    double alpha_bar[1000];
    TrainConf c;
    TrainNoise n;
} Vectors;

static void vectors_open(Vectors *v, const char *const *overrides)
{
    double betas[1000];
    conf_make(&v->c, overrides);
    OK(io_safetensors_open(&v->f, "tests/vectors/optim/noise.safetensors"));
    OK(sampler_betas(SAMPLER_BETAS_SCALED_LINEAR, 0.00085, 0.012, 1000, 0, betas));
    sampler_alpha_bar(betas, 1000, v->alpha_bar);
    v->n = (TrainNoise){&v->c.noise, &v->c.loss, v->alpha_bar, 1000, v->c.noise.predict == TRAIN_PREDICT_FLOW, SAMPLER_PREDICT_EPSILON};
}

static void vectors_close(Vectors *v)
{
    io_safetensors_close(v->f);
    train_conf_deinit(&v->c);
}

static void near(const Vectors *v, const char *name, const float *got)
{
    Ref r = ref_get(v->f, name, 1);
    for (int64_t i = 0; i < r.count; i++)
        if (!(fabs((double)got[i] - (double)r.v[i]) <= 2e-6 * fmax(1, fabs((double)r.v[i]))))
            fail_msg("%s[%d]: %.9g, expected %.9g", name, (int)i, (double)got[i], (double)r.v[i]);
    free(r.v);
}

static const char *const none[] = {NULL};

static void test_train_noise__offset(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double adaptive;
    } kinds[] = {{"offset", 0}, {"adaptive", 0.3}, {"adaptive_negative", -5}};
    Vectors v;
    vectors_open(&v, none);
    Ref x = ref_get(v.f, "x", 1), normal = ref_get(v.f, "channel", 1);
    for (int k = 0; k < 3; k++) {
        Ref e = ref_get(v.f, "noise", 1);
        train_noise_offset(e.v, x.v, normal.v, 0.1, kinds[k].adaptive, H, W, C);
        near(&v, kinds[k].name, e.v);
        free(e.v);
    }
    free(x.v);
    free(normal.v);
    vectors_close(&v);
}

static void test_train_noise__pyramid(void **state)
{
    (void)state;
    static const int size[3][2] = {{8, 12}, {3, 5}, {1, 2}};
    Vectors v;
    vectors_open(&v, none);
    Ref e = ref_get(v.f, "noise", 1);
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "level%d", i);
        Ref level = ref_get(v.f, name, 1);
        train_noise_level(e.v, H, W, C, level.v, size[i][0], size[i][1], pow(0.3, i));
        free(level.v);
    }
    train_noise_unit(e.v, N);
    near(&v, "pyramid", e.v);
    free(e.v);
    vectors_close(&v);
}

static void mix(Vectors *v, const char *noisy, const char *target, SamplerPredict predict, int extra)
{
    Ref x = ref_get(v->f, "x", 1), e = ref_get(v->f, "noise", 1), more = ref_get(v->f, "extra", 1);
    v->n.predict = predict;
    train_noise_mix(&v->n, 600, x.v, e.v, extra ? more.v : NULL, 0.2, N);
    near(v, noisy, x.v);
    near(v, target, e.v);
    free(x.v);
    free(e.v);
    free(more.v);
}

static void test_train_noise__targets(void **state)
{
    (void)state;
    Vectors v;
    vectors_open(&v, none);
    mix(&v, "noisy", "noise", SAMPLER_PREDICT_EPSILON, 0);
    mix(&v, "noisy_extra", "noise", SAMPLER_PREDICT_EPSILON, 1);
    mix(&v, "noisy", "velocity", SAMPLER_PREDICT_V, 0);
    mix(&v, "noisy_extra", "velocity", SAMPLER_PREDICT_V, 1);
    mix(&v, "noisy", "x", SAMPLER_PREDICT_SAMPLE, 0);
    vectors_close(&v);
    vectors_open(&v, (const char *[]){"noise.predict=flow", NULL});
    mix(&v, "flow_noisy", "flow_target", SAMPLER_PREDICT_EPSILON, 0);
    vectors_close(&v);
}

static void weights(const char *name, const char *const *overrides, SamplerPredict predict, int huber)
{
    Vectors v;
    vectors_open(&v, overrides);
    v.n.predict = predict;
    Ref r = ref_get(v.f, name, 0);
    for (int i = 0; i < 5; i++) {
        double got = huber ? train_noise_huber(&v.n, steps[i]) : train_noise_weight(&v.n, steps[i]);
        if (!(fabs(got - (double)r.v[i]) <= 1e-6 * fabs((double)r.v[i])))
            fail_msg("%s step %d: %.9g, expected %.9g", name, steps[i], got, (double)r.v[i]);
    }
    free(r.v);
    vectors_close(&v);
}
#define WEIGHTS(name, predict, ...) weights(name, (const char *[]){__VA_ARGS__, NULL}, predict, 0)
#define HUBER(name, ...) weights(name, (const char *[]){__VA_ARGS__, NULL}, SAMPLER_PREDICT_EPSILON, 1)

static void test_train_noise__weights(void **state)
{
    (void)state;
    WEIGHTS("w.min_snr", SAMPLER_PREDICT_EPSILON, "loss.min_snr=5");
    WEIGHTS("w.min_snr_v", SAMPLER_PREDICT_V, "loss.min_snr=5");
    WEIGHTS("w.debiased", SAMPLER_PREDICT_EPSILON, "loss.debiased=true");
    WEIGHTS("w.debiased_v", SAMPLER_PREDICT_V, "loss.debiased=true");
    WEIGHTS("w.scale_v", SAMPLER_PREDICT_V, "loss.scale_v_pred_loss_like_noise_pred=true");
    WEIGHTS("w.v_like", SAMPLER_PREDICT_EPSILON, "loss.v_pred_like_loss=0.7");
    WEIGHTS("w.all_v", SAMPLER_PREDICT_V, "loss.min_snr=5", "loss.scale_v_pred_loss_like_noise_pred=true", "loss.v_pred_like_loss=0.7",
            "loss.debiased=true");
    HUBER("huber.snr", "loss.type=huber");
    HUBER("huber.exponential", "loss.type=huber", "loss.huber_schedule=exponential", "loss.huber_scale=2");
    HUBER("huber.constant", "loss.type=smooth_l1", "loss.huber_schedule=constant", "loss.huber_scale=2");
}

static void test_train_noise__flow_weights(void **state)
{
    (void)state;
    static const char *const kinds[] = {"sigma_sqrt", "cosmap"};
    for (int k = 0; k < 2; k++) {
        Vectors v;
        char kind[64], name[64];
        snprintf(kind, sizeof kind, "loss.flow_weighting=%s", kinds[k]);
        snprintf(name, sizeof name, "flow.%s", kinds[k]);
        vectors_open(&v, (const char *[]){"noise.predict=flow", kind, NULL});
        Ref r = ref_get(v.f, name, 0);
        for (int i = 0; i < 3; i++)
            assert_true(fabs(train_noise_weight(&v.n, 100 + 400 * i) - (double)r.v[i]) <= 1e-5 * (double)r.v[i]);
        free(r.v);
        vectors_close(&v);
    }
}

/* Masked losses and their gradients through the backend. */
static void test_train_noise__masked_losses(void **state)
{
    (void)state;
    static const char *const kinds[] = {"l2", "l1", "huber", "smooth_l1"};
    Vectors v;
    Backend *be;
    vectors_open(&v, none);
    OK(cpu_backend_create(&be, 1, CPU_ISA_AVX512));
    Ref pred = ref_get(v.f, "pred", 1), noise = ref_get(v.f, "noise", 1), mask = ref_get(v.f, "loss.mask", 0);
    float one = 1, c = 0.35f, loss, dx[N];
    double part[8];
    for (int k = 0; k < 4; k++) {
        char name[32];
        OpAttr attr = {.loss = k};
        OpView in[6] = {{.data = &one, .dtype = DTYPE_F32, .shape = SHAPE(1)},
                        {.data = pred.v, .dtype = DTYPE_F32, .shape = SHAPE(1, H, W, C)},
                        {.data = noise.v, .dtype = DTYPE_F32, .shape = SHAPE(1, H, W, C)},
                        {.data = &one, .dtype = DTYPE_F32, .shape = SHAPE(1)},
                        {.data = &c, .dtype = DTYPE_F32, .shape = SHAPE(1)},
                        {.data = mask.v, .dtype = DTYPE_F32, .shape = SHAPE(1, H, W)}};
        OpView y = {.data = &loss, .dtype = DTYPE_F32, .shape = SHAPE(1)}, g = {.data = dx, .dtype = DTYPE_F32, .shape = SHAPE(1, H, W, C)};
        OpCall forward = {.kind = OP_PIXEL_LOSS, .attr = &attr, .in = in + 1, .out = &y, .nin = 5, .nout = 1, .scratch = part};
        OpCall backward = {.kind = OP_PIXEL_LOSS_BWD, .attr = &attr, .in = in, .out = &g, .nin = 6, .nout = 1};
        OK(be->op[OP_PIXEL_LOSS].run(be, &forward));
        OK(be->op[OP_PIXEL_LOSS_BWD].run(be, &backward));
        snprintf(name, sizeof name, "loss.%s", kinds[k]);
        near(&v, name, &loss);
        snprintf(name, sizeof name, "grad.%s", kinds[k]);
        near(&v, name, dx);
    }
    free(pred.v);
    free(noise.v);
    free(mask.v);
    backend_destroy(be);
    vectors_close(&v);
}

/* Means over many draws: the range is kept, the shift and the distribution move the middle. */
static double mean_time(const char *const *overrides, double lo, double hi)
{
    Vectors v;
    double sum = 0;
    vectors_open(&v, overrides);
    for (int64_t p = 0; p < 2000; p++) {
        double t = train_noise_time(&v.n, 5, p);
        assert_true(t >= lo && t <= hi && (v.n.flow || t == floor(t)));
        assert_true(t == train_noise_time(&v.n, 5, p));
        sum += t;
    }
    vectors_close(&v);
    return sum / 2000;
}
#define MEAN(lo, hi, ...) mean_time((const char *[]){__VA_ARGS__, NULL}, lo, hi)

static void test_train_noise__timesteps(void **state)
{
    (void)state;
    assert_true(fabs(MEAN(0, 999, "seed=1") - 499.5) < 25);
    assert_true(fabs(MEAN(200, 299, "noise.timestep_min=200", "noise.timestep_max=300") - 249.5) < 3);
    assert_true(fabs(MEAN(0, 999, "noise.distribution=logit_normal", "noise.std=0.5") - 499.5) < 15);
    assert_true(MEAN(0, 999, "noise.distribution=logit_normal", "noise.mean=1") > 650);
    /* the mean of s u/(1 + (s-1) u) over 0..1 is s (s - 1 - ln s)/(s-1)^2: 0.676 for 3 */
    assert_true(fabs(MEAN(0, 999, "noise.shift=3") - 676) < 25);
    assert_true(fabs(MEAN(0, 1000, "noise.predict=flow") - 500) < 25);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train_noise__offset),       cmocka_unit_test(test_train_noise__pyramid),
        cmocka_unit_test(test_train_noise__targets),      cmocka_unit_test(test_train_noise__weights),
        cmocka_unit_test(test_train_noise__flow_weights), cmocka_unit_test(test_train_noise__masked_losses),
        cmocka_unit_test(test_train_noise__timesteps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
