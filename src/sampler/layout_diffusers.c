#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sampler/solver_impl.h"

/* Classes that lay steps + 1 timesteps and drop the lowest. */
static int drops_lowest(const SamplerConf *c)
{
    return c->kind == SAMPLER_DPMPP_2M || c->kind == SAMPLER_DPMPP_2M_SDE || c->kind == SAMPLER_DPMPP_3M || c->kind == SAMPLER_DPMPP_3M_SDE ||
           c->kind == SAMPLER_DPM_2M || c->kind == SAMPLER_UNIPC || c->kind == SAMPLER_DEIS || c->kind == SAMPLER_DPMPP_2S;
}

/* Classes whose timesteps are whole numbers. */
static int whole(const SamplerConf *c) { return drops_lowest(c) || sampler_is_index_based(c); }

/* Every k-th of the timesteps that the model was distilled with. */
static void distilled_timesteps(const SamplerConf *c, double *t)
{
    int origin = c->original_steps, stride = c->train_steps / c->original_steps;
    for (int i = 0; i < c->steps; i++) {
        int k = (int)floor(i * ((double)origin / c->steps));
        t[i] = (origin - k) * stride - 1.0;
    }
}

void sampler_base_timesteps(const SamplerConf *c, double *t)
{
    int n = c->steps, T = c->train_steps, points = drops_lowest(c) ? n + 1 : n;
    SamplerSpacing spacing = c->kind == SAMPLER_DPMPP_2S && c->rules == SAMPLER_RULES_DIFFUSERS ? SAMPLER_LINSPACE : c->spacing;
    if ((c->kind == SAMPLER_LCM || c->kind == SAMPLER_TCD) && !c->spaced) {
        distilled_timesteps(c, t);
        return;
    }
    for (int i = 0; i < n; i++) {
        int k = points - 1 - i; /* position from the low end */
        double v;
        if (spacing == SAMPLER_LEADING) {
            v = (double)(k * (T / points) + c->steps_offset);
        } else if (spacing == SAMPLER_TRAILING) {
            double step = ((double)T - (double)T / n) - (double)T;
            v = nearbyint((double)T + i * step) - 1; /* numpy rounds half to even */
        } else {
            v = points == 1 ? 0 : k == points - 1 ? T - 1.0 : k * ((T - 1.0) / (points - 1));
            v = whole(c) ? nearbyint(v) : (double)(float)v;
        }
        t[i] = v;
    }
}

/* How a class casts the timestep of a sigma of its schedule. */
static double cast_t(const SamplerConf *c, double t)
{
    int rounds = c->sigmas == SAMPLER_SIGMAS_KARRAS || c->sigmas == SAMPLER_SIGMAS_LU;
    if (c->kind == SAMPLER_DPM2 || c->kind == SAMPLER_DPM2_A)
        return rounds ? nearbyint(t) : t;
    if (!whole(c))
        return (double)(float)t;
    if (rounds && c->betas == SAMPLER_BETAS_COSINE && c->kind != SAMPLER_UNIPC && c->kind != SAMPLER_DEIS && c->kind != SAMPLER_DPMPP_2S)
        rounds = 0;
    return rounds || c->sigmas > SAMPLER_SIGMAS_BETA ? nearbyint(t) : floor(t); /* others are cast to int64 */
}

/* Schedules that diffusers has as flags: closed forms between the ends of the class's own timesteps or of the whole table. */
static int between_ends(SamplerSigmas m)
{
    return m == SAMPLER_SIGMAS_KARRAS || m == SAMPLER_SIGMAS_EXPONENTIAL || m == SAMPLER_SIGMAS_BETA || m == SAMPLER_SIGMAS_LU ||
           m == SAMPLER_SIGMAS_POLYEXPONENTIAL;
}

/* Levels and timesteps of c->sigmas into arrays of sampler_sigmas_room; returns the number of steps. */
static int schedule(const Sampler *s, double *t, double *level)
{
    const SamplerConf *c = &s->c;
    int n = c->steps, T = s->table.n;
    sampler_base_timesteps(c, t);
    for (int i = 0; i < n; i++)
        level[i] = sampler_table_sigma_linear(&s->table, t[i]);
    level[n] = 0;
    if (c->sigmas <= SAMPLER_SIGMAS_NORMAL)
        return n;
    if (between_ends(c->sigmas)) {
        double hi = drops_lowest(c) ? s->table.sigma[T - 1] : level[0], lo = drops_lowest(c) ? s->table.sigma[0] : level[n - 1];
        hi = c->sigma_max > 0 ? c->sigma_max : hi;
        lo = c->sigma_min > 0 ? c->sigma_min : lo;
        for (int i = 0; i < n; i++)
            level[i] = sampler_sigma_between(c, hi, lo, i, n);
    } else {
        n = sampler_sigmas(c, &s->table, n, level);
    }
    for (int i = 0; i < n; i++)
        t[i] = cast_t(c, sampler_table_t(&s->table, level[i]));
    return n;
}

/* 1, 2, 1, 2, ... as diffusers' get_order_list for solver_order 2 with lower_order_final. */
static int order_list(Sampler *s)
{
    int n = s->steps, order = s->c.order;
    s->order_of = calloc((size_t)n + 1, sizeof *s->order_of);
    if (!s->order_of)
        return err_set(ERR_NOMEM, "out of memory: sampler");
    for (int i = 0; i < n; i++)
        s->order_of[i] = i % order + 1;
    int whole_rounds = order == 1 ? n : n / order * order;
    if (order > 1 && whole_rounds == n)
        s->order_of[n - 1] = 1;
    if (order == 3 && n >= 3 && n % 3 == 0)
        s->order_of[n - 2] = 2;
    if (!s->c.final_sigma_min && n > 0)
        s->order_of[n - 1] = 1;
    return 0;
}

int sampler_layout_sigma(Sampler *s)
{
    const SamplerConf *c = &s->c;
    size_t room = (size_t)sampler_sigmas_room(c, c->steps);
    double *t = malloc(room * sizeof *t), *level = malloc(room * sizeof *level);
    int rc = t && level ? 0 : err_set(ERR_NOMEM, "out of memory: sampler"), n = 0;
    if (rc == 0) {
        n = schedule(s, t, level);
        rc = sampler_layout_alloc(s, n, 2 * n);
    }
    if (rc == 0) {
        int has_final = c->kind == SAMPLER_EULER || drops_lowest(c);
        if (has_final && c->final_sigma_min)
            level[n] = c->kind == SAMPLER_UNIPC && c->sigmas > SAMPLER_SIGMAS_NORMAL ? level[n - 1] : s->table.sigma[0];
        for (int k = 0; k <= n; k++)
            s->level[k] = (double)(float)level[k];
        sampler_layout_calls(s, t);
        if (c->kind == SAMPLER_DPMPP_2S)
            rc = order_list(s);
    }
    free(t);
    free(level);
    return rc;
}

/* PLMS repeats the second timestep; the Runge-Kutta start takes four calls for each of the first three. */
static void pndm_calls(Sampler *s, const double *t, int n, int stride)
{
    int count = 0, half = s->table.n / n / 2;
    for (int i = 0; i < n; i++) {
        SamplerCall c = {.step = i, .t = t[i], .from = t[i], .prev = stride > 0 ? t[i] - stride : i + 1 < n ? t[i + 1] : -1};
        if (s->c.skip_prk) {
            s->call[count++] = c;
            if (i == 1) { /* redone from the first sample with the mean of both outputs */
                c.part = 0;
                s->call[count - 1].from = stride > 0 ? t[1] + stride : t[0];
                s->call[count - 1].prev = t[1];
                s->call[count - 1].part = 1;
                s->call[count++] = c;
            }
        } else if (i < 3) {
            double mid = t[i + 1] + half;
            const double at[4] = {t[i], mid, mid, t[i + 1]}, to[4] = {t[i] - half, mid, mid - half, t[i + 1]};
            for (int k = 0; k < 4; k++)
                s->call[count++] = (SamplerCall){.step = i, .part = k, .t = at[k], .from = t[i], .prev = to[k]};
        } else {
            s->call[count++] = c;
        }
    }
    s->count = count;
}

int sampler_layout_index(Sampler *s)
{
    const SamplerConf *c = &s->c;
    size_t room = (size_t)sampler_sigmas_room(c, c->steps);
    double *t = malloc(room * sizeof *t), *level = malloc(room * sizeof *level);
    int rc = t && level ? 0 : err_set(ERR_NOMEM, "out of memory: sampler"), n = 0;
    int listed = c->sigmas > SAMPLER_SIGMAS_NORMAL, stride = listed ? 0 : s->table.n / c->steps;
    if (rc == 0) {
        n = schedule(s, t, level);
        int kept = 0;
        for (int i = 0; i < n && listed; i++) { /* equal timesteps would be steps of no length */
            double at = sampler_table_nearest(&s->table, level[i]);
            if (kept == 0 || at < t[kept - 1])
                t[kept++] = at;
        }
        n = listed ? kept : n;
        rc = sampler_layout_alloc(s, n, n + SAMPLER_EXTRA_CALLS);
    }
    if (rc == 0 && c->kind == SAMPLER_PNDM) {
        pndm_calls(s, t, n, stride);
    } else if (rc == 0) {
        int next_listed = listed || c->kind != SAMPLER_DDIM;
        for (int i = 0; i < n; i++)
            s->call[i] = (SamplerCall){.step = i, .t = t[i], .from = t[i], .prev = !next_listed ? t[i] - stride : i + 1 < n ? t[i + 1] : -1};
        s->count = n;
    }
    for (int i = 0; i < s->count && rc == 0; i++) {
        int k = (int)s->call[i].t < 0 ? 0 : (int)s->call[i].t < s->table.n ? (int)s->call[i].t : s->table.n - 1;
        s->call[i].sigma = sampler_sigma_of(s->table.bar[k]);
        s->level[s->call[i].step] = s->call[i].sigma;
    }
    if (rc == 0)
        s->level[n] = c->set_alpha_to_one ? 0 : sampler_sigma_of(s->table.bar[0]);
    free(t);
    free(level);
    return rc;
}
