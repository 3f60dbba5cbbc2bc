#include "sampler/solver.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sampler/timesteps.h"

enum { MAX_HISTORY = 6, EPS_HISTORY = 4 };

struct Sampler {
    SamplerConf c;
    int count;                  /* model calls */
    double *alpha_bar;          /* [train_steps] */
    double *t, *sigma;          /* [count], [count + 1] */
    double final_bar;           /* alpha_bar after the last step of DDIM and PNDM */
    size_t max_n, n;            /* n: of the current run */
    int begin, next;            /* first call of the current run, the one expected now; -1 before a run */
    int nhist;
    float *hist[MAX_HISTORY];   /* use per solver: see the step functions */
    int neps;                   /* PNDM: outputs kept in hist[0..3], newest last */
    float *denoised;
};

/* a x + b m */
typedef struct {
    double a, b;
} Mix;

static int history_size(const SamplerConf *c)
{
    switch (c->kind) {
    case SAMPLER_DPMPP_2M:
    case SAMPLER_DPMPP_2M_SDE: return c->order > 1;
    case SAMPLER_HEUN: return 2;
    case SAMPLER_PNDM: return 6;
    default: return 0;
    }
}

/* Only DDIM without epsilon prediction can start from pure noise (alpha_bar 0). */
static int check_levels(const Sampler *s)
{
    int pure = s->c.kind == SAMPLER_DDIM && s->c.predict != SAMPLER_PREDICT_EPSILON;
    for (int i = 0; i < s->count; i++) {
        if (s->t[i] < 0 || s->t[i] > s->c.train_steps - 1)
            return err_set(ERR_RANGE, "sampler: timestep %g of call %d is outside 0..%d: choose other steps or spacing", s->t[i], i,
                           s->c.train_steps - 1);
        if (!isfinite(s->sigma[i]) && !pure)
            return err_set(ERR_RANGE, "sampler: no signal is left at timestep %g: betas too large for %s with %s", s->t[i],
                           sampler_kind_name(s->c.kind), sampler_predict_name(s->c.predict));
    }
    return 0;
}

int sampler_create(Sampler **out, const SamplerConf *conf, size_t max_n)
{
    int rc = ERR_NOMEM;
    double *betas = NULL;
    *out = NULL;
    TRY(sampler_conf_check(conf));
    if (max_n > SIZE_MAX / 64)
        return err_set(ERR_RANGE, "sampler: %zu elements", max_n);
    size_t T = (size_t)conf->train_steps, calls = 2 * (size_t)conf->steps + SAMPLER_EXTRA_CALLS + 1;
    Sampler *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(ERR_NOMEM, "out of memory: sampler");
    s->c = *conf;
    s->max_n = max_n;
    s->nhist = history_size(conf);
    betas = malloc(T * sizeof *betas);
    s->alpha_bar = malloc(T * sizeof *s->alpha_bar);
    s->t = calloc(calls, sizeof *s->t);
    s->sigma = calloc(calls, sizeof *s->sigma);
    s->denoised = malloc(max_n * sizeof(float) + 1);
    if (!betas || !s->alpha_bar || !s->t || !s->sigma || !s->denoised)
        goto done;
    for (int i = 0; i < s->nhist; i++)
        if (!(s->hist[i] = malloc(max_n * sizeof(float) + 1)))
            goto done;
    if ((rc = sampler_table(conf, betas, s->alpha_bar)) < 0)
        goto done;
    s->final_bar = conf->set_alpha_to_one ? 1 : s->alpha_bar[0];
    s->count = sampler_timesteps(conf, s->alpha_bar, s->t, s->sigma);
    if ((rc = check_levels(s)) < 0)
        goto done;
    sampler_reset(s);
    *out = s;
    s = NULL;
done:
    free(betas);
    sampler_destroy(s);
    return rc == ERR_NOMEM ? err_set(rc, "out of memory: sampler for %zu elements", max_n) : rc;
}

void sampler_destroy(Sampler *s)
{
    if (!s)
        return;
    for (int i = 0; i < MAX_HISTORY; i++)
        free(s->hist[i]);
    free(s->denoised);
    free(s->alpha_bar);
    free(s->t);
    free(s->sigma);
    free(s);
}

void sampler_reset(Sampler *s)
{
    s->begin = s->next = -1;
    s->neps = 0;
    s->n = 0;
}

int sampler_count(const Sampler *s) { return s->count; }

int sampler_begin_at(const Sampler *s, double strength)
{
    int first = sampler_first_step(s->c.steps, strength);
    if (first >= s->c.steps)
        return s->count;
    if (s->c.kind == SAMPLER_HEUN)
        return 2 * first;
    return s->c.kind == SAMPLER_PNDM && first > 0 ? first + 1 : first; /* past the repeated second timestep */
}

static int clamp_index(int i, int n) { return i < 0 ? 0 : i < n ? i : n - 1; }

double sampler_timestep(const Sampler *s, int i) { return s->t[clamp_index(i, s->count)]; }
double sampler_sigma(const Sampler *s, int i) { return s->sigma[clamp_index(i, s->count + 1)]; }

static int scales_input(const Sampler *s)
{
    return s->c.kind == SAMPLER_EULER || s->c.kind == SAMPLER_EULER_A || s->c.kind == SAMPLER_HEUN;
}

double sampler_init_noise_sigma(const Sampler *s)
{
    if (!scales_input(s))
        return 1;
    double top = s->sigma[0];
    return s->c.spacing == SAMPLER_LEADING ? sqrt(top * top + 1) : top;
}

double sampler_scale_input(const Sampler *s, int i)
{
    double sigma = sampler_sigma(s, i);
    return scales_input(s) ? 1 / sqrt(sigma * sigma + 1) : 1;
}

const float *sampler_denoised(const Sampler *s) { return s->next > s->begin ? s->denoised : NULL; }

/* alpha_bar at a timestep; the final one below 0. */
static double bar_at(const Sampler *s, int t)
{
    return t < 0 ? s->final_bar : s->alpha_bar[clamp_index(t, s->c.train_steps)];
}

/* x0 and epsilon from (x, model output) where x = sqrt(ab) x0 + sqrt(1-ab) epsilon. */
static void predict_bar(SamplerPredict p, double ab, Mix *x0, Mix *eps)
{
    double a = sqrt(ab), b = sqrt(1 - ab);
    if (p == SAMPLER_PREDICT_EPSILON) {
        *x0 = (Mix){1 / a, -b / a};
        *eps = (Mix){0, 1};
    } else if (p == SAMPLER_PREDICT_V) {
        *x0 = (Mix){a, -b};
        *eps = (Mix){b, a};
    } else {
        *x0 = (Mix){0, 1};
        *eps = (Mix){1 / b, -a / b};
    }
}

/* x0 where x = x0 + sigma epsilon. */
static Mix predict_sigma(SamplerPredict p, double sigma)
{
    if (p == SAMPLER_PREDICT_EPSILON)
        return (Mix){1, -sigma};
    if (p == SAMPLER_PREDICT_V)
        return (Mix){1 / (sigma * sigma + 1), -sigma / sqrt(sigma * sigma + 1)};
    return (Mix){0, 1};
}

/* diffusers takes one training stride back from t whatever the spacing. */
static double ddim_std(const Sampler *s, int i, double *bar, double *prev)
{
    int t = (int)s->t[i], stride = s->c.train_steps / s->c.steps;
    *bar = bar_at(s, t);
    *prev = bar_at(s, t - stride);
    double var = (1 - *prev) / (1 - *bar) * (1 - *bar / *prev);
    return s->c.eta * sqrt(var > 0 ? var : 0);
}

static void ancestral_split(double from, double to, double *down, double *up)
{
    *up = sqrt(to * to * (from * from - to * to) / (from * from));
    double rest = to * to - *up * *up;
    *down = sqrt(rest > 0 ? rest : 0);
}

static double dpm_h(const Sampler *s, int i)
{
    return log(s->sigma[i]) - log(s->sigma[i + 1]); /* lambda = log(alpha/sigma_t) = -log(sigma) */
}

/* Weight of the noise in step i. */
static double noise_weight(const Sampler *s, int i)
{
    double a, b;
    switch (s->c.kind) {
    case SAMPLER_DDIM:
        return ddim_std(s, i, &a, &b);
    case SAMPLER_EULER_A:
        ancestral_split(s->sigma[i], s->sigma[i + 1], &a, &b);
        return b;
    case SAMPLER_DPMPP_2M_SDE: {
        double to = s->sigma[i + 1];
        return to > 0 ? to / sqrt(to * to + 1) * sqrt(-expm1(-2 * dpm_h(s, i))) : 0;
    }
    default:
        return 0;
    }
}

int sampler_needs_noise(const Sampler *s, int i) { return i >= 0 && i < s->count && noise_weight(s, i) > 0; }

static double clip(double v, double range) { return v < -range ? -range : v > range ? range : v; }

/* arXiv:2010.02502, eq. 12 */
static void step_ddim(Sampler *s, int i, float *x, const float *m, const float *noise, size_t n)
{
    double bar, prev, std = ddim_std(s, i, &bar, &prev);
    Mix x0, eps;
    predict_bar(s->c.predict, bar, &x0, &eps);
    double rest = 1 - prev - std * std, along = sqrt(rest > 0 ? rest : 0), scale = sqrt(prev);
    double range = s->c.clip_sample ? s->c.clip_range : INFINITY;
    for (size_t k = 0; k < n; k++) {
        double xv = (double)x[k], mv = (double)m[k];
        double d = clip(x0.a * xv + x0.b * mv, range);
        double v = scale * d + along * (eps.a * xv + eps.b * mv);
        s->denoised[k] = (float)d;
        x[k] = (float)(std > 0 ? v + std * (double)noise[k] : v);
    }
}

/* k-diffusion's sample_euler and sample_euler_ancestral */
static void step_euler(Sampler *s, int i, float *x, const float *m, const float *noise, size_t n)
{
    double sigma = s->sigma[i], to = s->sigma[i + 1], up = 0;
    if (s->c.kind == SAMPLER_EULER_A)
        ancestral_split(sigma, s->sigma[i + 1], &to, &up);
    Mix x0 = predict_sigma(s->c.predict, sigma);
    double dt = (to - sigma) / sigma;
    for (size_t k = 0; k < n; k++) {
        double xv = (double)x[k], d = x0.a * xv + x0.b * (double)m[k];
        double v = xv + (xv - d) * dt;
        s->denoised[k] = (float)d;
        x[k] = (float)(up > 0 ? v + up * (double)noise[k] : v);
    }
}

/* hist[0]: the first derivative, hist[1]: the sample it was taken at. Even calls predict, odd calls correct. */
static void step_heun(Sampler *s, int i, float *x, const float *m, size_t n)
{
    int first = i % 2 == 0;
    double from = s->sigma[first ? i : i - 1], to = s->sigma[first ? i + 1 : i], here = first ? from : to;
    double range = s->c.clip_sample ? s->c.clip_range : INFINITY;
    Mix x0 = predict_sigma(s->c.predict, here);
    for (size_t k = 0; k < n; k++) {
        double xv = (double)x[k], d = clip(x0.a * xv + x0.b * (double)m[k], range), slope = (xv - d) / here;
        s->denoised[k] = (float)d;
        if (first) {
            s->hist[0][k] = (float)slope;
            s->hist[1][k] = x[k];
            x[k] = (float)(xv + slope * (to - from));
        } else {
            x[k] = (float)((double)s->hist[1][k] + ((double)s->hist[0][k] + slope) / 2 * (to - from));
        }
    }
}

static int dpm_first_order(const Sampler *s, int i)
{
    int n = s->c.steps;
    int last = i == n - 1 && (s->c.euler_at_final || (s->c.lower_order_final && n < 15) || !s->c.final_sigma_min);
    return s->c.order == 1 || i == s->begin || last;
}

/* arXiv:2211.01095, algorithm 2 and its SDE form; hist[0]: the previous x0. */
static void step_dpm(Sampler *s, int i, float *x, const float *m, const float *noise, size_t n)
{
    double from = s->sigma[i], to = s->sigma[i + 1], h = dpm_h(s, i);
    double bar = 1 / (from * from + 1), alpha = 1 / sqrt(to * to + 1);
    int sde = s->c.kind == SAMPLER_DPMPP_2M_SDE, first = dpm_first_order(s, i);
    Mix x0, eps;
    predict_bar(s->c.predict, bar, &x0, &eps);
    double keep = to * alpha / (from * sqrt(bar)) * (sde ? exp(-h) : 1), hh = sde ? 2 * h : h;
    double gain = -alpha * expm1(-hh), up = noise_weight(s, i), bend = 0;
    if (!first) {
        double r0 = dpm_h(s, i - 1) / h;
        bend = s->c.heun_correction ? alpha * (expm1(-hh) / hh + 1) / r0 : 0.5 * gain / r0;
    }
    for (size_t k = 0; k < n; k++) {
        double xv = (double)x[k], d = (double)(float)(x0.a * xv + x0.b * (double)m[k]);
        double v = keep * xv + gain * d;
        if (!first)
            v += bend * (d - (double)s->hist[0][k]);
        if (up > 0)
            v += up * (double)noise[k];
        if (s->hist[0])
            s->hist[0][k] = (float)d;
        s->denoised[k] = (float)d;
        x[k] = (float)v;
    }
}

/* arXiv:2202.09778, eq. 11, with its division written as diffusers' _get_prev_sample has it. */
static void pndm_move(const Sampler *s, float *x, const float *from, const float *e, int t, int prev_t, size_t n)
{
    double ab = bar_at(s, t), prev = bar_at(s, prev_t);
    double keep = sqrt(prev / ab);
    double gain = (prev - ab) / (ab * sqrt(1 - prev) + sqrt(ab * (1 - ab) * prev));
    Mix x0, eps;
    predict_bar(s->c.predict, ab, &x0, &eps);
    for (size_t k = 0; k < n; k++) {
        double xv = (double)from[k];
        x[k] = (float)(keep * xv - gain * (eps.a * xv + eps.b * (double)e[k]));
    }
}

/* Keeps the newest output last in hist[0..3]. */
static void pndm_push(Sampler *s, const float *m, size_t n)
{
    if (s->neps == EPS_HISTORY) {
        float *oldest = s->hist[0];
        memmove(s->hist, s->hist + 1, (EPS_HISTORY - 1) * sizeof *s->hist);
        s->hist[EPS_HISTORY - 1] = oldest;
        s->neps--;
    }
    memcpy(s->hist[s->neps++], m, n * sizeof *m);
}

/* out = sum of w[j] * (j-th newest output), in units of 1/24 */
static void pndm_blend(const Sampler *s, float *out, size_t n)
{
    static const double weight[EPS_HISTORY + 1][EPS_HISTORY] = {
        {0}, {24}, {36, -12}, {46, -32, 10}, {55, -59, 37, -9}}; /* Adams-Bashforth of order 1..4 */
    const double *w = weight[s->neps];
    for (size_t k = 0; k < n; k++) {
        double sum = 0;
        for (int j = 0; j < s->neps; j++)
            sum += w[j] * (double)s->hist[s->neps - 1 - j][k];
        out[k] = (float)(sum / 24);
    }
}

/* Runge-Kutta start; hist[4]: sum of slopes, hist[5]: the sample of the first of four calls. */
static void step_prk(Sampler *s, int i, float *x, const float *m, size_t n)
{
    static const double weight[4] = {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6};
    int part = i % 4, half = s->c.train_steps / s->c.steps / 2, t = (int)s->t[i];
    float *sum = s->hist[4];
    if (part == 0) {
        pndm_push(s, m, n);
        memcpy(s->hist[5], x, n * sizeof *x);
    }
    for (size_t k = 0; k < n; k++)
        sum[k] = (float)((part ? (double)sum[k] : 0) + weight[part] * (double)m[k]);
    pndm_move(s, x, s->hist[5], part == 3 ? sum : m, (int)s->t[i - part], part % 2 ? t : t - half, n);
}

/* hist[4]: the blended output, hist[5]: the sample of the first call, redone by the second with the mean of both. A run that
 * starts in the middle has no such second call: its order grows from 1 (diffusers would redo a step at the wrong level). */
static void step_plms(Sampler *s, int i, float *x, const float *m, size_t n)
{
    int call = i - s->begin, stride = s->c.train_steps / s->c.steps, t = (int)s->t[i], prev = t - stride;
    float *e = s->hist[4];
    if (call == 1 && s->begin == 0 && s->c.skip_prk) {
        for (size_t k = 0; k < n; k++)
            e[k] = (float)(((double)m[k] + (double)s->hist[0][k]) / 2);
        pndm_move(s, x, s->hist[5], e, t + stride, t, n);
        return;
    }
    pndm_push(s, m, n);
    pndm_blend(s, e, n);
    if (call == 0)
        memcpy(s->hist[5], x, n * sizeof *x);
    pndm_move(s, x, x, e, t, prev, n);
}

static void step_pndm(Sampler *s, int i, float *x, const float *m, size_t n)
{
    Mix x0, eps;
    predict_bar(s->c.predict, bar_at(s, (int)s->t[i]), &x0, &eps);
    for (size_t k = 0; k < n; k++)
        s->denoised[k] = (float)(x0.a * (double)x[k] + x0.b * (double)m[k]);
    if (!s->c.skip_prk && i < 12)
        step_prk(s, i, x, m, n);
    else
        step_plms(s, i, x, m, n);
}

static int check_start(const Sampler *s, int i)
{
    if (i > 0 && s->c.kind == SAMPLER_PNDM && !s->c.skip_prk)
        return err_set(ERR_UNSUPPORTED, "pndm with skip_prk_steps false cannot start in the middle");
    if ((s->c.kind == SAMPLER_HEUN && i % 2) || (s->c.kind == SAMPLER_PNDM && i == 1))
        return err_set(ERR_RANGE, "sampler: %s cannot start at call %d", sampler_kind_name(s->c.kind), i);
    return 0;
}

static int check_step(Sampler *s, int i, const float *noise, size_t n)
{
    int first = s->begin < 0;
    if (i < 0 || i >= s->count)
        return err_set(ERR_RANGE, "sampler: call %d of %d", i, s->count);
    if (first)
        TRY(check_start(s, i));
    else if (i != s->next)
        return err_set(ERR_RANGE, "sampler: call %d came when %d was due", i, s->next);
    if (n > s->max_n || (!first && n != s->n))
        return err_set(ERR_RANGE, "sampler: %zu elements, made for %zu", n, first ? s->max_n : s->n);
    if (!noise && noise_weight(s, i) > 0)
        return err_set(ERR_RANGE, "sampler: call %d needs noise", i);
    if (first) {
        s->begin = s->next = i;
        s->n = n;
    }
    return 0;
}

int sampler_step(Sampler *s, int i, float *x, const float *model_out, const float *noise, size_t n)
{
    TRY(check_step(s, i, noise, n));
    switch (s->c.kind) {
    case SAMPLER_DDIM: step_ddim(s, i, x, model_out, noise, n); break;
    case SAMPLER_PNDM: step_pndm(s, i, x, model_out, n); break;
    case SAMPLER_EULER:
    case SAMPLER_EULER_A: step_euler(s, i, x, model_out, noise, n); break;
    case SAMPLER_HEUN: step_heun(s, i, x, model_out, n); break;
    default: step_dpm(s, i, x, model_out, noise, n);
    }
    s->next++;
    return 0;
}

int sampler_noise_to(const Sampler *s, int i, float *x, const float *x0, const float *noise, size_t n)
{
    if (i < 0 || i > s->count)
        return err_set(ERR_RANGE, "sampler: call %d of %d", i, s->count);
    if (i == s->count) {
        memmove(x, x0, n * sizeof *x);
        return 0;
    }
    double sigma = s->sigma[i];
    if (scales_input(s)) {
        for (size_t k = 0; k < n; k++)
            x[k] = (float)((double)x0[k] + sigma * (double)noise[k]);
    } else if (s->c.kind == SAMPLER_DDIM || s->c.kind == SAMPLER_PNDM) {
        sampler_add_noise(x, x0, noise, bar_at(s, (int)s->t[i]), n);
    } else {
        sampler_add_noise(x, x0, noise, 1 / (sigma * sigma + 1), n);
    }
    return 0;
}
