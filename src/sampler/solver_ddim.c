/* Solvers by timestep: DDIM (arXiv:2010.02502), DDPM (arXiv:2006.11239), LCM (arXiv:2310.04378), TCD (arXiv:2402.19159), as diffusers
 * has them; LCM and TCD over levels of sigma as well (ComfyUI's sample_lcm, github.com/JettHu/ComfyUI-TCD's sample_tcd). */
#include <math.h>

#include "sampler/solver_impl.h"

static double bar_at(const Sampler *s, double t)
{
    int i = (int)t;
    return t < 0 ? s->final_bar : s->table.bar[i < s->table.n ? i : s->table.n - 1];
}

static void clip_of(const Sampler *s, SamplerRow *r)
{
    if (s->c.clip_sample && s->c.rules <= SAMPLER_RULES_DIFFUSERS)
        r->clip = s->c.clip_range;
}

/* eq. 12; epsilon is the unclipped one. */
void sampler_row_ddim(const Sampler *s, int i, SamplerRow *r)
{
    double bar = bar_at(s, s->call[i].from), prev = bar_at(s, s->call[i].prev), ex, em;
    double var = (1 - prev) / (1 - bar) * (1 - bar / prev), std = s->c.eta * sqrt(var > 0 ? var : 0);
    double rest = 1 - prev - std * std, along = sqrt(rest > 0 ? rest : 0);
    sampler_row_init(s, i, r);
    clip_of(s, r);
    sampler_eps_weights(s, i, &ex, &em);
    r->next.d = sqrt(prev);
    r->next.x = along * ex;
    r->next.m = along * em;
    r->next.noise = std;
}

/* eq. 6-7; the variance is the posterior's ("fixed_small"). */
void sampler_row_ddpm(const Sampler *s, int i, SamplerRow *r)
{
    double bar = bar_at(s, s->call[i].t), prev = s->call[i].prev < 0 ? 1 : bar_at(s, s->call[i].prev), alpha = bar / prev;
    double var = (1 - prev) / (1 - bar) * (1 - alpha);
    sampler_row_init(s, i, r);
    clip_of(s, r);
    r->next.d = sqrt(prev) * (1 - alpha) / (1 - bar);
    r->next.x = sqrt(alpha) * (1 - prev) / (1 - bar);
    r->next.noise = s->call[i].t > 0 ? sqrt(var > 1e-20 ? var : 0) : 0;
}

/* Boundary conditions with sigma_data 0.5 and timestep_scaling 10. */
void sampler_row_lcm(const Sampler *s, int i, SamplerRow *r)
{
    int last = i + 1 >= s->count;
    sampler_row_init(s, i, r);
    if (s->ve) {
        r->next.d = 1;
        r->next.noise = s->level[s->call[i].step + 1];
        return;
    }
    double prev = last ? 1 : bar_at(s, s->call[i].prev), t = 10 * s->call[i].t, norm = t * t + 0.25;
    clip_of(s, r);
    r->next.d = sqrt(prev) * t / sqrt(norm);
    r->next.x = sqrt(prev) * 0.25 / norm;
    r->next.noise = last ? 0 : sqrt(1 - prev);
}

/* Level s between 0 and the next timestep, then noise up to that. Over levels of sigma as ComfyUI-TCD's sample_tcd: timesteps of floats,
 * and the last level is timestep 0 and not the image itself. */
void sampler_row_tcd(const Sampler *s, int i, SamplerRow *r)
{
    double eta = s->c.eta, ex, em, prev, mid, unit = 1;
    int noisy = eta > 0;
    if (s->ve) {
        double to = s->level[s->call[i].step + 1], t = 0;
        if (to > 0)
            t = s->c.rules == SAMPLER_RULES_COMFY ? sampler_table_nearest(&s->table, to) : sampler_table_t(&s->table, to);
        prev = 1 / (1 + to * to);
        mid = bar_at(s, (double)floorf((float)(1 - eta) * (float)t));
        noisy = noisy && to > 0;
        unit = 1 / sqrt(prev);
    } else {
        double at = s->call[i].prev < 0 ? 0 : s->call[i].prev;
        prev = bar_at(s, at);
        mid = bar_at(s, floor((1 - eta) * at));
        noisy = noisy && i + 1 < s->count;
    }
    sampler_row_init(s, i, r);
    sampler_eps_weights(s, i, &ex, &em);
    if (noisy)
        r->next.noise = unit * sqrt(prev < mid ? 1 - prev / mid : 0);
    unit *= noisy ? sqrt(prev / mid) : 1;
    r->next.d = unit * sqrt(mid);
    r->next.x = unit * sqrt(1 - mid) * ex;
    r->next.m = unit * sqrt(1 - mid) * em;
}
