#include "train/noise.h"

#include <math.h>
#include <stddef.h>

#include "base/rng.h"
#include "ops/op.h"

/* Streams of RNG_OFFSET. */
enum { DRAW_OFFSET, DRAW_OFFSET_STRENGTH, DRAW_EXTRA, DRAW_EXTRA_STRENGTH, DRAW_RATIO, DRAW_LEVEL = 16 };
static const double SNR_MAX = 1000;

double train_noise_time(const TrainNoise *t, uint64_t seed, int64_t position)
{
    const TrainNoiseConf *n = t->noise;
    RngKey key = rng_key(seed, RNG_TIMESTEP, (uint64_t)position, 0);
    int lo = n->timestep_min, hi = n->timestep_max ? n->timestep_max : t->steps;
    hi = hi > t->steps ? t->steps : hi;
    lo = lo >= hi ? hi - 1 : lo;
    if (!t->flow && n->distribution == 0 && n->shift == 1)
        return (double)lo + (double)rng_below(key, (uint64_t)(hi - lo));
    double u = n->distribution ? 1 / (1 + exp(-((double)n->mean + (double)n->std * (double)rng_normal(key, 0)))) : (double)rng_uniform(key, 0);
    u = (double)n->shift * u / (1 + ((double)n->shift - 1) * u);
    double time = lo + (hi - lo) * u;
    if (t->flow)
        return time;
    return floor(time) < hi ? floor(time) : hi - 1;
}

void train_noise_offset(float *noise, const float *x, const float *normal, double strength, double adaptive, int h, int w, int c)
{
    int64_t pixels = (int64_t)h * w;
    for (int k = 0; k < c; k++) {
        double mean = 0, s = strength;
        for (int64_t i = 0; adaptive != 0 && i < pixels; i++)
            mean += (double)x[i * c + k];
        s += adaptive * fabs(mean / (double)pixels);
        if (s < 0)
            s = 0;
        for (int64_t i = 0; i < pixels; i++)
            noise[i * c + k] += (float)(s * (double)normal[k]);
    }
}

typedef struct {
    int a, b;
    double f; /* of b */
} Tap;

static Tap tap(int i, int out, int in)
{
    double s = (i + 0.5) * in / out - 0.5;
    s = s < 0 ? 0 : s;
    int a = (int)s < in - 1 ? (int)s : in - 1;
    return (Tap){a, a + 1 < in ? a + 1 : a, s - a};
}

void train_noise_level(float *noise, int h, int w, int c, const float *level, int lh, int lw, double factor)
{
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            Tap v = tap(y, h, lh), u = tap(x, w, lw);
            const float *top = level + (int64_t)v.a * lw * c, *low = level + (int64_t)v.b * lw * c;
            for (int k = 0; k < c; k++) {
                double t = (1 - u.f) * (double)top[u.a * c + k] + u.f * (double)top[u.b * c + k];
                double l = (1 - u.f) * (double)low[u.a * c + k] + u.f * (double)low[u.b * c + k];
                noise[((int64_t)y * w + x) * c + k] += (float)(factor * ((1 - v.f) * t + v.f * l));
            }
        }
}

void train_noise_unit(float *noise, int64_t n)
{
    double mean = 0, sum = 0;
    for (int64_t i = 0; i < n; i++)
        mean += (double)noise[i];
    mean /= (double)n;
    for (int64_t i = 0; i < n; i++)
        sum += ((double)noise[i] - mean) * ((double)noise[i] - mean);
    double std = n > 1 ? sqrt(sum / (double)(n - 1)) : 0;
    for (int64_t i = 0; std > 0 && i < n; i++)
        noise[i] = (float)((double)noise[i] / std);
}

static void factors(const TrainNoise *t, double time, double *a, double *s)
{
    double ab = t->flow ? 0 : t->alpha_bar[(int)time];
    *s = t->flow ? time / t->steps : sqrt(1 - ab);
    *a = t->flow ? 1 - *s : sqrt(ab);
}

void train_noise_latent(uint64_t seed, int64_t position, const float *moments, float shift, float scaling, float *x, float *draw, int64_t n,
                        int c)
{
    rng_normal_fill(draw, n, rng_key(seed, RNG_LATENT, (uint64_t)position, 0), 0);
    for (int64_t i = 0; i < n; i++) {
        const float *m = moments + i / c * 2 * c + i % c;
        float logvar = fminf(fmaxf(m[c], -30.0f), 20.0f);
        x[i] = (m[0] + (float)exp(0.5 * (double)logvar) * draw[i] - shift) * scaling;
    }
}

void train_noise_mix(const TrainNoise *t, double time, float *x, float *noise, const float *extra, double gamma, int64_t n)
{
    double a, s;
    factors(t, time, &a, &s);
    for (int64_t i = 0; i < n; i++) {
        double x0 = (double)x[i], e = (double)noise[i], more = extra ? e + gamma * (double)extra[i] : e;
        x[i] = (float)(a * x0 + s * more);
        if (t->flow)
            noise[i] = (float)(e - x0);
        else if (t->predict == SAMPLER_PREDICT_V)
            noise[i] = (float)(a * e - s * x0);
        else if (t->predict == SAMPLER_PREDICT_SAMPLE)
            noise[i] = (float)x0;
    }
}

static void pyramid(const TrainNoise *t, uint64_t seed, int64_t position, float *noise, float *work, int h, int w, int c)
{
    RngKey ratios = rng_key(seed, RNG_OFFSET, (uint64_t)position, DRAW_RATIO);
    for (int i = 0; i < t->noise->multires_iterations; i++) {
        double r = pow(2 + 2 * (double)rng_uniform(ratios, (uint64_t)i), i);
        int lh = (int)(h / r), lw = (int)(w / r);
        lh = lh < 1 ? 1 : lh;
        lw = lw < 1 ? 1 : lw;
        rng_normal_fill(work, (int64_t)lh * lw * c, rng_key(seed, RNG_OFFSET, (uint64_t)position, (uint64_t)(DRAW_LEVEL + i)), 0);
        train_noise_level(noise, h, w, c, work, lh, lw, pow((double)t->noise->multires_discount, i));
        if (lh == 1 || lw == 1)
            break;
    }
    train_noise_unit(noise, (int64_t)h * w * c);
}

static double strength(float most, int random, uint64_t seed, int64_t position, int draw)
{
    RngKey key = rng_key(seed, RNG_OFFSET, (uint64_t)position, (uint64_t)draw);
    return (double)most * (random ? (double)rng_uniform(key, 0) : 1);
}

void train_noise_apply(const TrainNoise *t, uint64_t seed, int64_t position, double time, float *x, float *target, float *work, int h,
                       int w, int c)
{
    const TrainNoiseConf *n = t->noise;
    int64_t count = (int64_t)h * w * c;
    rng_normal_fill(target, count, rng_key(seed, RNG_NOISE, (uint64_t)position, 0), 0);
    if (n->offset > 0) {
        rng_normal_fill(work, c, rng_key(seed, RNG_OFFSET, (uint64_t)position, DRAW_OFFSET), 0);
        train_noise_offset(target, x, work, strength(n->offset, n->offset_random, seed, position, DRAW_OFFSET_STRENGTH),
                           (double)n->offset_adaptive, h, w, c);
    }
    if (n->multires_iterations)
        pyramid(t, seed, position, target, work, h, w, c);
    if (n->perturbation > 0)
        rng_normal_fill(work, count, rng_key(seed, RNG_OFFSET, (uint64_t)position, DRAW_EXTRA), 0);
    train_noise_mix(t, time, x, target, n->perturbation > 0 ? work : NULL,
                    strength(n->perturbation, n->perturbation_random, seed, position, DRAW_EXTRA_STRENGTH), count);
}

void train_noise_sample(const TrainNoise *t, uint64_t seed, int64_t position, double time, NoiseSample *out)
{
    const TrainNoiseConf *n = t->noise;
    uint64_t item = (uint64_t)position;
    out->latent = rng_key(seed, RNG_LATENT, item, 0);
    out->noise = rng_key(seed, RNG_NOISE, item, 0);
    out->offset = rng_key(seed, RNG_OFFSET, item, DRAW_OFFSET);
    out->extra = rng_key(seed, RNG_OFFSET, item, DRAW_EXTRA);
    out->strength = n->offset > 0 ? strength(n->offset, n->offset_random, seed, position, DRAW_OFFSET_STRENGTH) : 0;
    out->gamma = n->perturbation > 0 ? strength(n->perturbation, n->perturbation_random, seed, position, DRAW_EXTRA_STRENGTH) : 0;
    factors(t, time, &out->a, &out->s);
}

static double flow_weight(int kind, double s)
{
    if (kind == TRAIN_FLOW_SIGMA_SQRT)
        return 1 / (s * s > 1e-12 ? s * s : 1e-12);
    return kind == TRAIN_FLOW_COSMAP ? 2 / (3.14159265358979323846 * (1 - 2 * s + 2 * s * s)) : 1;
}

double train_noise_weight(const TrainNoise *t, double time)
{
    const TrainLossConf *l = t->loss;
    if (t->flow)
        return flow_weight(l->flow_weighting, time / t->steps);
    double ab = t->alpha_bar[(int)time], w = 1, snr = fmin(sampler_snr(ab), SNR_MAX);
    int v = t->predict == SAMPLER_PREDICT_V;
    if (l->min_snr > 0)
        w = sampler_min_snr_weight(ab, (double)l->min_snr, t->predict);
    if (l->scale_v_pred_loss_like_noise_pred && v)
        w *= snr / (snr + 1);
    if (l->v_pred_like_loss > 0)
        w += snr > 0 ? w / (snr / (snr + 1)) * (double)l->v_pred_like_loss : 0;
    if (l->debiased)
        w *= v ? 1 / (snr + 1) : snr > 0 ? 1 / sqrt(snr) : 1;
    return w;
}

double train_noise_huber(const TrainNoise *t, double time)
{
    double c = (double)t->loss->huber_c, scale = (double)t->loss->huber_scale;
    if (t->loss->huber_schedule == TRAIN_HUBER_CONSTANT)
        return c * scale;
    if (t->loss->huber_schedule == TRAIN_HUBER_EXPONENTIAL)
        return exp(log(c) / t->steps * time) * scale;
    double sigma = sampler_sigma_of(t->alpha_bar[(int)time]);
    return (1 - c) / ((1 + sigma) * (1 + sigma)) + c;
}
