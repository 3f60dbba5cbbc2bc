#include "sampler/solver.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sampler/solver_impl.h"

typedef struct {
    SamplerRowFn row;
    int ve, history;
} Family;

/* A solver over a list of levels in the VE scale, or (diffusers) by its class. */
static Family family_of(const SamplerConf *c)
{
    int kd = c->rules > SAMPLER_RULES_DIFFUSERS, a1111 = c->rules == SAMPLER_RULES_A1111;
    switch (c->kind) {
    case SAMPLER_EULER:
    case SAMPLER_EULER_A: return (Family){sampler_row_euler, 1, 0};
    case SAMPLER_HEUN: return (Family){sampler_row_heun, 1, 1};
    case SAMPLER_DPM2:
    case SAMPLER_DPM2_A: return (Family){sampler_row_dpm2, 1, 0};
    case SAMPLER_LMS: return (Family){sampler_row_lms, 1, 4};
    case SAMPLER_DPMPP_2S_A: return (Family){sampler_row_2s_a, 1, 0};
    case SAMPLER_DPMPP_SDE: return (Family){sampler_row_sde, 1, 1};
    case SAMPLER_DPMPP_2S: return kd ? (Family){sampler_row_2s_a, 1, 0} : (Family){sampler_row_dpm_single, 0, 3};
    case SAMPLER_UNIPC: return (Family){sampler_row_unipc, kd && !a1111, 4};
    case SAMPLER_DEIS: return kd ? (Family){sampler_row_deis_tab, 1, 3} : (Family){sampler_row_deis, 0, 3};
    case SAMPLER_DDIM: return kd && !a1111 ? (Family){sampler_row_euler, 1, 0} : (Family){sampler_row_ddim, 0, 0};
    case SAMPLER_DDPM: return kd ? (Family){sampler_row_euler, 1, 0} : (Family){sampler_row_ddpm, 0, 0};
    case SAMPLER_PNDM:
        return a1111 ? (Family){sampler_row_plms, 0, 4} : kd ? (Family){sampler_row_ipndm, 1, 4} : (Family){sampler_row_pndm, 0, c->skip_prk ? 4 : 6};
    case SAMPLER_LCM: return (Family){sampler_row_lcm, kd, 0};
    case SAMPLER_TCD: return (Family){sampler_row_tcd, kd, 0};
    default: return (Family){sampler_row_dpm, kd, c->order > 1 ? 3 : 1};
    }
}

static int default_order(const SamplerConf *c)
{
    switch (c->kind) {
    case SAMPLER_LMS: return 4;
    case SAMPLER_DPMPP_3M:
    case SAMPLER_DPMPP_3M_SDE: return 3;
    case SAMPLER_UNIPC:
    case SAMPLER_DEIS: return c->rules > SAMPLER_RULES_DIFFUSERS ? 3 : 2;
    default: return 2;
    }
}

static void resolve(SamplerConf *c)
{
    c->eta = sampler_conf_eta(c);
    c->sigmas = sampler_conf_sigmas(c);
    if (c->order == 0 || c->rules > SAMPLER_RULES_DIFFUSERS)
        c->order = default_order(c);
    if (c->kind == SAMPLER_DPM_2M)
        c->final_sigma_min = 1; /* epsilon has no meaning at sigma 0; diffusers refuses the other setting */
    if (c->kind == SAMPLER_DEIS)
        c->final_sigma_min = 1; /* its class has no choice */
    if (c->unipc_bh == 0)
        c->unipc_bh = c->rules > SAMPLER_RULES_DIFFUSERS ? 1 : 2;
    if (c->kind == SAMPLER_UNIPC && c->rules == SAMPLER_RULES_COMFY && c->steps < 3)
        c->order = c->steps - 1 > 0 ? c->steps - 1 : 1;
}

/* Only solvers by timestep without epsilon prediction can start from pure noise (alpha_bar 0). */
static int check_levels(const Sampler *s)
{
    int pure = sampler_is_index_based(&s->c) && s->c.predict != SAMPLER_PREDICT_EPSILON;
    for (int i = 0; i < s->count; i++) {
        double t = s->call[i].t, sigma = s->call[i].sigma;
        if (!(t >= 0 && t <= s->c.train_steps - 1))
            return err_set(ERR_RANGE, "sampler: timestep %g of call %d is outside 0..%d: choose other steps or spacing", t, i,
                           s->c.train_steps - 1);
        if (!(sigma > 0) || (!isfinite(sigma) && !pure))
            return err_set(ERR_RANGE, "sampler: no signal is left at timestep %g: betas too large for %s with %s", t,
                           sampler_kind_name(s->c.kind), sampler_predict_name(s->c.predict));
    }
    for (int k = 0; k < s->steps; k++)
        if (!(s->level[k] > s->level[k + 1]) && !sampler_is_index_based(&s->c))
            return err_set(ERR_RANGE, "sampler: step %d goes from sigma %g to %g: choose other steps, spacing or sigma_min", k, s->level[k],
                           s->level[k + 1]);
    return 0;
}

static int alloc_history(Sampler *s, int history)
{
    size_t bytes = s->max_n * sizeof(float) + 1;
    s->nhist = history;
    for (int i = 0; i < history; i++)
        if (!(s->hist[i] = malloc(bytes)))
            return ERR_NOMEM;
    s->saved = malloc(bytes);
    s->denoised = malloc(bytes);
    return s->saved && s->denoised ? 0 : ERR_NOMEM;
}

int sampler_create(Sampler **out, const SamplerConf *conf, size_t max_n)
{
    *out = NULL;
    TRY(sampler_conf_check(conf));
    if (max_n > SIZE_MAX / 64)
        return err_set(ERR_RANGE, "sampler: %zu elements", max_n);
    Sampler *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(ERR_NOMEM, "out of memory: sampler");
    s->c = *conf;
    s->max_n = max_n;
    resolve(&s->c);
    Family f = family_of(&s->c);
    s->ve = f.ve;
    s->row = f.row;
    int rc = sampler_table_init(&s->table, &s->c);
    if (rc == 0) {
        s->final_bar = s->c.set_alpha_to_one ? 1 : s->table.bar[0];
        rc = sampler_layout(s);
    }
    if (rc == 0)
        rc = check_levels(s);
    if (rc == 0 && alloc_history(s, f.history) < 0)
        rc = err_set(ERR_NOMEM, "out of memory: sampler for %zu elements", max_n);
    if (rc < 0) {
        sampler_destroy(s);
        return rc;
    }
    sampler_reset(s);
    *out = s;
    return 0;
}

void sampler_destroy(Sampler *s)
{
    if (!s)
        return;
    for (int i = 0; i < SAMPLER_HISTORY; i++)
        free(s->hist[i]);
    free(s->saved);
    free(s->denoised);
    free(s->level);
    free(s->order_of);
    free(s->call);
    sampler_table_deinit(&s->table);
    free(s);
}

void sampler_reset(Sampler *s)
{
    s->begin = s->next = -1;
    s->n = 0;
    s->paint = (SamplerInpaint){0};
}

static int clamp_index(int i, int n) { return i < 0 ? 0 : i < n ? i : n - 1; }

int sampler_count(const Sampler *s) { return s->count; }
int sampler_begin(const Sampler *s) { return s->start; }
double sampler_init_noise_sigma(const Sampler *s) { return s->first_sigma; }

double sampler_timestep(const Sampler *s, int i) { return s->count ? s->call[clamp_index(i, s->count)].t : 0; }

double sampler_sigma(const Sampler *s, int i)
{
    return i >= s->count || s->count == 0 ? s->level[s->steps] : s->call[clamp_index(i, s->count)].sigma;
}

double sampler_scale_input(const Sampler *s, int i)
{
    double sigma = sampler_sigma(s, i);
    return s->ve ? 1 / sqrt(sigma * sigma + 1) : 1;
}

const float *sampler_denoised(const Sampler *s) { return s->next > s->begin ? s->denoised : NULL; }

double sampler_alpha(const Sampler *s, double sigma) { return s->ve ? 1 : sqrt(1 / (1 + sigma * sigma)); }
double sampler_sigma_t(const Sampler *s, double sigma)
{
    return s->ve ? sigma : isfinite(sigma) ? sigma / sqrt(1 + sigma * sigma) : 1;
}

/* x0 where x = alpha x0 + sigma_t epsilon. In the VE scale the model saw x / sqrt(1 + sigma^2). */
static void predict(const Sampler *s, double sigma, double *x, double *m)
{
    double a = sampler_alpha(s, sigma), b = sampler_sigma_t(s, sigma);
    switch (s->c.predict) {
    case SAMPLER_PREDICT_EPSILON: *x = 1 / a, *m = -b / a; break;
    case SAMPLER_PREDICT_V:
        *x = s->ve ? 1 / (sigma * sigma + 1) : a;
        *m = s->ve ? -sigma / sqrt(sigma * sigma + 1) : -b;
        break;
    default: *x = 0, *m = 1;
    }
}

void sampler_row_init(const Sampler *s, int i, SamplerRow *r)
{
    memset(r, 0, sizeof *r);
    r->clip = INFINITY;
    predict(s, s->call[i].sigma, &r->d_x, &r->d_m);
}

void sampler_eps_weights(const Sampler *s, int i, double *x, double *m)
{
    double sigma = s->call[i].sigma, a = sampler_alpha(s, sigma), b = sampler_sigma_t(s, sigma), dx, dm;
    if (s->c.predict == SAMPLER_PREDICT_EPSILON) {
        *x = 0, *m = 1;
        return;
    }
    if (s->c.predict == SAMPLER_PREDICT_V && !s->ve) {
        *x = b, *m = a;
        return;
    }
    predict(s, sigma, &dx, &dm);
    *x = (1 - a * dx) / b;
    *m = -a * dm / b;
}

void sampler_ancestral(double from, double to, double eta, double *down, double *up)
{
    double most = eta * sqrt(to * to * (from * from - to * to) / (from * from));
    *up = most < to ? most : to;
    double rest = to * to - *up * *up;
    *down = eta > 0 ? sqrt(rest > 0 ? rest : 0) : to;
}

double sampler_hat(const Sampler *s, int k)
{
    const SamplerConf *c = &s->c;
    double sigma = s->level[k];
    if (!(c->s_churn > 0) || (c->kind != SAMPLER_EULER && c->kind != SAMPLER_HEUN && c->kind != SAMPLER_DPM2))
        return sigma;
    double gamma = c->s_churn / s->steps, most = sqrt(2) - 1, top = c->s_tmax > 0 ? c->s_tmax : INFINITY;
    return sigma >= c->s_tmin && sigma <= top ? sigma * (1 + (gamma < most ? gamma : most)) : sigma;
}

int sampler_first_step_of_run(const Sampler *s) { return s->begin >= 0 ? s->call[s->begin].step : 0; }

int sampler_needs_churn(const Sampler *s, int i)
{
    return i >= 0 && i < s->count && s->call[i].part == 0 && s->c.s_churn > 0 && sampler_hat(s, s->call[i].step) > s->level[s->call[i].step];
}

void sampler_churn(const Sampler *s, int i, float *x, const float *noise, size_t n)
{
    if (!sampler_needs_churn(s, i))
        return;
    double hat = sampler_hat(s, s->call[i].step), sigma = s->level[s->call[i].step];
    double w = (s->c.s_noise > 0 ? s->c.s_noise : 1) * sqrt(hat * hat - sigma * sigma);
    for (size_t k = 0; k < n; k++)
        x[k] = (float)((double)x[k] + w * (double)noise[k]);
}

int sampler_needs_noise(const Sampler *s, int i)
{
    SamplerRow r;
    if (i < 0 || i >= s->count)
        return 0;
    s->row(s, i, &r);
    return r.next.noise > 0 || r.next.noise < 0;
}

int sampler_noise_interval(const Sampler *s, int i, double interval[2], double range[2])
{
    const SamplerCall *c = &s->call[clamp_index(i, s->count)];
    if (s->c.kind != SAMPLER_DPMPP_SDE && s->c.kind != SAMPLER_DPMPP_2M_SDE && s->c.kind != SAMPLER_DPMPP_3M_SDE)
        return 0;
    if (s->c.rules <= SAMPLER_RULES_DIFFUSERS && s->c.kind != SAMPLER_DPMPP_SDE)
        return 0; /* DPMSolverMultistepScheduler draws from its generator */
    interval[0] = s->level[c->step];
    interval[1] = s->level[c->step + 1];
    if (s->c.kind == SAMPLER_DPMPP_SDE && c->part == 0 && interval[1] > 0)
        interval[1] = s->call[i + 1].sigma;
    if (s->c.kind == SAMPLER_DPMPP_SDE) /* its times went through exp(-(-log sigma)) in float */
        for (int k = 0; k < 2; k++)
            interval[k] = interval[k] > 0 ? (double)expf(logf((float)interval[k])) : 0;
    range[0] = s->range[0];
    range[1] = s->range[1];
    return 1;
}

/* ---- starting ---- */

static double source_weight(const Sampler *s, double sigma)
{
    return s->ve || !isfinite(sigma) ? (s->ve ? 1 : 0) : 1 / sqrt(1 + sigma * sigma);
}

static void mix(float *x, double a, const float *source, double b, const float *noise, size_t n)
{
    for (size_t k = 0; k < n; k++)
        x[k] = (float)(a * (double)source[k] + b * (double)noise[k]);
}

void sampler_start(Sampler *s, float *x, const float *noise, const float *source, size_t n)
{
    sampler_reset(s);
    if (source && s->start >= s->count)
        memmove(x, source, n * sizeof *x);
    else if (source)
        mix(x, source_weight(s, s->source_sigma), source, s->ve ? s->source_sigma : sampler_sigma_t(s, s->source_sigma), noise, n);
    else
        for (size_t k = 0; k < n; k++)
            x[k] = (float)(s->first_sigma * (double)noise[k]);
}

int sampler_noise_to(const Sampler *s, int i, float *x, const float *x0, const float *noise, size_t n)
{
    if (i < 0 || i > s->count)
        return err_set(ERR_RANGE, "sampler: call %d of %d", i, s->count);
    if (i == s->count)
        memmove(x, x0, n * sizeof *x);
    else
        mix(x, source_weight(s, s->call[i].sigma), x0, sampler_sigma_t(s, s->call[i].sigma), noise, n);
    return 0;
}

/* ---- inpainting ---- */

void sampler_inpaint(Sampler *s, const SamplerInpaint *p) { s->paint = *p; }

/* What the model sees in place of x[k]: ComfyUI shows the source with noise where it is kept, A1111's solvers by timestep show it bare. */
static double shown(const Sampler *s, int i, double x, size_t k)
{
    if (!s->paint.repaint || s->c.rules <= SAMPLER_RULES_DIFFUSERS)
        return x;
    double p = (double)s->paint.repaint[k], source = (double)s->paint.source[k];
    if (s->c.rules == SAMPLER_RULES_COMFY)
        return x * p + (source + (double)s->paint.noise[k] * s->call[i].sigma) * (1 - p);
    return s->ve ? x : x * p + source * (1 - p);
}

void sampler_input(const Sampler *s, int i, float *in, const float *x, size_t n)
{
    double scale = sampler_scale_input(s, i);
    for (size_t k = 0; k < n; k++)
        in[k] = (float)(shown(s, i, (double)x[k], k) * scale);
}

/* The model output that would have given the estimate with the source put into its kept part. */
static double painted(const Sampler *s, const SamplerRow *r, int i, double x, double m, size_t k)
{
    double see = shown(s, i, x, k), p = (double)s->paint.repaint[k];
    double d = r->d_x * see + r->d_m * m;
    if (s->ve)
        d = d * p + (double)s->paint.source[k] * (1 - p);
    return (d - r->d_x * x) / r->d_m;
}

/* diffusers: the source at the next level, with the noise of the start. */
static void repaint_after(const Sampler *s, int i, float *x, size_t n)
{
    int last = i + 1 >= s->count;
    double sigma = last ? 0 : s->call[i + 1].sigma, a = source_weight(s, sigma), b = last ? 0 : sampler_sigma_t(s, sigma);
    for (size_t k = 0; k < n; k++) {
        double p = (double)s->paint.repaint[k], kept = a * (double)s->paint.source[k] + b * (double)s->paint.noise[k];
        x[k] = (float)(p * (double)x[k] + (1 - p) * kept);
    }
}

/* ---- stepping ---- */

static int check_start(const Sampler *s, int i)
{
    if (i > 0 && s->c.kind == SAMPLER_PNDM && !s->c.skip_prk && s->c.rules <= SAMPLER_RULES_DIFFUSERS)
        return err_set(ERR_UNSUPPORTED, "pndm with skip_prk_steps false cannot start in the middle");
    if (s->call[i].part)
        return err_set(ERR_RANGE, "sampler: %s cannot start at call %d", sampler_kind_name(s->c.kind), i);
    return 0;
}

static int check_step(Sampler *s, int i, size_t n)
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
    return 0;
}

static void push(Sampler *s)
{
    float *oldest = s->hist[s->nhist - 1];
    memmove(s->hist + 1, s->hist, (size_t)(s->nhist - 1) * sizeof *s->hist);
    s->hist[0] = oldest;
}

static void drop(Sampler *s)
{
    float *newest = s->hist[0];
    memmove(s->hist, s->hist + 1, (size_t)(s->nhist - 1) * sizeof *s->hist);
    s->hist[s->nhist - 1] = newest;
}

typedef struct {
    double x, m, d, saved, noise;
} Here;

static double weigh(const Sampler *s, const SamplerMix *w, const Here *v, size_t k, int nhist)
{
    double sum = w->x * v->x + w->m * v->m + w->d * v->d + w->saved * v->saved + w->noise * v->noise;
    for (int j = 0; j < nhist; j++)
        sum += w->h[j] * (double)s->hist[j][k];
    return sum;
}

/* How many history places a row reads: the others may hold nothing yet. */
static int reads(const SamplerRow *r)
{
    int n = 0;
    for (int j = 0; j < SAMPLER_HISTORY; j++)
        if (r->next.h[j] < 0 || r->next.h[j] > 0 || r->save.h[j] < 0 || r->save.h[j] > 0)
            n = j + 1;
    return n;
}

static int uses(double w) { return w < 0 || w > 0; }

static void apply(Sampler *s, const SamplerRow *r, int i, float *x, const float *out, const float *noise, size_t n)
{
    int nhist = reads(r), saved = uses(r->next.saved) || uses(r->save.saved), noisy = uses(r->next.noise);
    int painting = s->paint.repaint && s->c.rules > SAMPLER_RULES_DIFFUSERS && uses(r->d_m);
    if (r->keeps)
        push(s);
    for (size_t k = 0; k < n; k++) {
        Here v = {.x = (double)x[k], .m = (double)out[k], .saved = saved ? (double)s->saved[k] : 0, .noise = noisy ? (double)noise[k] : 0};
        if (painting)
            v.m = painted(s, r, i, v.x, v.m, k);
        double d = r->d_x * v.x + r->d_m * v.m;
        v.d = d < -r->clip ? -r->clip : d > r->clip ? r->clip : d;
        s->denoised[k] = (float)v.d;
        if (r->keeps)
            s->hist[0][k] = (float)(r->keep_x * v.x + r->keep_m * v.m + r->keep_d * v.d);
        double next = weigh(s, &r->next, &v, k, nhist);
        if (r->saves)
            s->saved[k] = (float)weigh(s, &r->save, &v, k, nhist);
        x[k] = (float)next;
    }
}

int sampler_step(Sampler *s, int i, float *x, const float *model_out, const float *noise, size_t n)
{
    TRY(check_step(s, i, n));
    int first = s->begin < 0;
    SamplerRow r;
    if (first)
        s->begin = s->next = i;
    s->row(s, i, &r);
    if (!noise && uses(r.next.noise)) {
        if (first)
            s->begin = s->next = -1;
        return err_set(ERR_RANGE, "sampler: call %d needs noise", i);
    }
    s->n = n;
    apply(s, &r, i, x, model_out, noise, n);
    for (int j = 0; j < r.drops; j++)
        drop(s);
    if (s->paint.repaint && s->c.rules <= SAMPLER_RULES_DIFFUSERS)
        repaint_after(s, i, x, n);
    s->next++;
    return 0;
}
