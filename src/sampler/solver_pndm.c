/* PNDM and PLMS, arXiv:2202.09778: diffusers' PNDMScheduler and A1111's PLMS. Kept values: model outputs (PLMS: epsilon). */
#include <math.h>

#include "sampler/solver_impl.h"

static const double adams[4][4] = {{1}, {1.5, -0.5}, {23.0 / 12, -16.0 / 12, 5.0 / 12}, {55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24}};

static double bar_at(const Sampler *s, double t)
{
    int i = (int)t;
    return t < 0 ? s->final_bar : s->table.bar[i < s->table.n ? i : s->table.n - 1];
}

/* eq. 11 as diffusers' _get_prev_sample divides it: x' = keep x - gain e. */
static void transfer(const Sampler *s, double from, double to, double *keep, double *gain)
{
    double bar = bar_at(s, from), prev = bar_at(s, to);
    *keep = sqrt(prev / bar);
    *gain = (prev - bar) / (bar * sqrt(1 - prev) + sqrt(bar * (1 - bar) * prev));
}

/* epsilon = ex x + em m of a move that starts at `from` (v prediction; the model's timestep may be another). */
static void eps_from(const Sampler *s, double from, double *ex, double *em)
{
    double bar = bar_at(s, from);
    *ex = s->c.predict == SAMPLER_PREDICT_V ? sqrt(1 - bar) : 0;
    *em = s->c.predict == SAMPLER_PREDICT_V ? sqrt(bar) : 1;
}

static void keep_output(SamplerRow *r)
{
    r->keeps = 1;
    r->keep_m = 1;
}

static void save_x(SamplerRow *r)
{
    r->saves = 1;
    r->save.x = 1;
}

/* Runge-Kutta start: the outputs of the four parts stay in the history until the last part drops all but the first. */
static void row_prk(const Sampler *s, int i, SamplerRow *r)
{
    static const double weight[4] = {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6};
    const SamplerCall *c = &s->call[i];
    double keep, gain, ex, em;
    transfer(s, c->from, c->prev, &keep, &gain);
    eps_from(s, c->from, &ex, &em);
    if (c->part == 0) {
        keep_output(r);
        save_x(r);
        r->next.x = keep - gain * ex;
        r->next.m = -gain * em;
        return;
    }
    r->next.saved = keep - gain * ex;
    if (c->part < 3) {
        keep_output(r);
        r->next.m = -gain * em;
        return;
    }
    r->drops = 2;
    r->next.m = -gain * em * weight[3];
    r->next.h[0] = -gain * em * weight[2];
    r->next.h[1] = -gain * em * weight[1];
    r->next.h[2] = -gain * em * weight[0];
}

/* A run that starts in the middle has no second look at its first step: its order grows from 1 (diffusers would redo a step at the
 * wrong level). */
void sampler_row_pndm(const Sampler *s, int i, SamplerRow *r)
{
    const SamplerCall *c = &s->call[i];
    int begin = s->begin >= 0 ? s->begin : 0, known = i - begin + 1 - (begin == 0 && s->c.skip_prk && i > 1);
    double keep, gain, ex, em;
    sampler_row_init(s, i, r);
    if (!s->c.skip_prk && i < 12) {
        row_prk(s, i, r);
        return;
    }
    if (!s->c.skip_prk)
        known = i - 12 + 4;
    transfer(s, c->from, c->prev, &keep, &gain);
    eps_from(s, c->from, &ex, &em);
    if (c->part == 1) { /* the first step again, with the mean of both outputs */
        r->next.saved = keep - gain * ex;
        r->next.m = -gain * em / 2;
        r->next.h[0] = -gain * em / 2;
        return;
    }
    keep_output(r);
    if (i == begin)
        save_x(r);
    known = known < 4 ? known : 4;
    r->next.x = keep - gain * ex;
    for (int j = 0; j < known; j++)
        r->next.h[j] = -gain * em * adams[known - 1][j];
}

/* sd_samplers_timesteps_impl.plms: DDIM steps with blended epsilon; the first one looks twice. */
void sampler_row_plms(const Sampler *s, int i, SamplerRow *r)
{
    const SamplerCall *c = &s->call[i];
    double bar = bar_at(s, c->from), prev = bar_at(s, c->prev), ex, em, keep = sqrt(prev / bar);
    double gain = sqrt(1 - prev) - keep * sqrt(1 - bar);
    int first = sampler_first_step_of_run(s), known = c->step - first + 1;
    sampler_row_init(s, i, r);
    sampler_eps_weights(s, i, &ex, &em);
    if (c->part == 1) {
        r->next.saved = keep;
        r->next.x = gain * ex / 2;
        r->next.m = gain * em / 2;
        r->next.h[0] = gain / 2;
        return;
    }
    r->keeps = 1;
    r->keep_x = ex;
    r->keep_m = em;
    save_x(r);
    r->next.x = keep;
    known = known < 4 ? known : 4;
    for (int j = 0; j < known; j++)
        r->next.h[j] = gain * adams[known - 1][j];
}
