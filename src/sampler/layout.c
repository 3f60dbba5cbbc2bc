#include <math.h>
#include <stdlib.h>

#include "sampler/solver_impl.h"

int sampler_is_index_based(const SamplerConf *c)
{
    return c->kind == SAMPLER_DDIM || c->kind == SAMPLER_PNDM || c->kind == SAMPLER_DDPM || c->kind == SAMPLER_LCM || c->kind == SAMPLER_TCD;
}

int sampler_layout_alloc(Sampler *s, int steps, int calls)
{
    s->steps = steps;
    s->count = calls;
    s->level = calloc((size_t)steps + 1, sizeof *s->level);
    s->call = calloc((size_t)calls + 1, sizeof *s->call);
    return s->level && s->call ? 0 : err_set(ERR_NOMEM, "out of memory: sampler with %d steps", steps);
}

/* Timestep that the model sees for a sigma between the levels. */
static double model_t(const Sampler *s, double sigma)
{
    if (s->c.rules == SAMPLER_RULES_COMFY)
        return sampler_table_nearest(&s->table, sigma);
    return (double)(float)sampler_table_t(&s->table, sigma);
}

/* Sigma of the second model call of step k, 0 where the step has one call. */
static double second_sigma(const Sampler *s, int k)
{
    double from = s->level[k], to = s->level[k + 1], down, up;
    if (!(to > 0))
        return 0;
    switch (s->c.kind) {
    case SAMPLER_HEUN: return to;
    case SAMPLER_DPM2: return sqrt(sampler_hat(s, k) * to);
    case SAMPLER_DPMPP_SDE: return sqrt(from * to);
    case SAMPLER_DPM2_A:
    case SAMPLER_DPMPP_2S_A:
        sampler_ancestral(from, to, s->c.eta, &down, &up);
        return sqrt(from * down);
    default: return 0;
    }
}

void sampler_layout_calls(Sampler *s, const double *t)
{
    int n = 0;
    for (int k = 0; k < s->steps; k++) {
        double hat = sampler_hat(s, k), mid = second_sigma(s, k);
        int same = !(hat > s->level[k]);
        s->call[n++] = (SamplerCall){.step = k, .t = same && t ? t[k] : model_t(s, hat), .sigma = hat};
        if (mid > 0) {
            int level = s->c.kind == SAMPLER_HEUN;
            s->call[n++] = (SamplerCall){.step = k, .part = 1, .t = level && t ? t[k + 1] : model_t(s, mid), .sigma = level ? mid : (double)(float)mid};
        }
    }
    s->count = n;
}

/* diffusers: min(int(S d), S) steps run, as its pipelines' get_timesteps. */
static void start_diffusers(Sampler *s)
{
    int first = sampler_first_step(s->c.steps, s->c.strength);
    if (first >= s->c.steps || s->steps == 0) {
        s->start = s->count;
        return;
    }
    first = (int)((long long)first * s->steps / s->c.steps); /* schedules with another number of steps */
    s->start = s->count;
    for (int i = s->count - 1; i >= 0; i--)
        if (s->call[i].step >= first && s->call[i].part == 0)
            s->start = i;
    if (s->c.kind == SAMPLER_PNDM && first > 0 && s->c.skip_prk)
        s->start = first + 1; /* past the repeated second timestep */
    s->source_sigma = s->start < s->count ? s->call[s->start].sigma : 0;
}

int sampler_layout(Sampler *s)
{
    const SamplerConf *c = &s->c;
    if (c->rules == SAMPLER_RULES_A1111 && (c->kind == SAMPLER_DDIM || c->kind == SAMPLER_PNDM || c->kind == SAMPLER_UNIPC))
        return sampler_layout_ldm(s);
    if (c->rules > SAMPLER_RULES_DIFFUSERS)
        return sampler_layout_list(s);
    TRY(sampler_is_index_based(c) ? sampler_layout_index(s) : sampler_layout_sigma(s));
    start_diffusers(s);
    s->first_sigma = 1;
    if (s->ve && s->count) {
        double top = s->level[0];
        s->first_sigma = c->spacing == SAMPLER_LEADING && c->kind != SAMPLER_DPMPP_2S_A ? sqrt(top * top + 1) : top;
    }
    double low = 0;
    for (int k = 0; k <= s->steps; k++)
        if (s->level[k] > 0)
            low = s->level[k];
    s->range[0] = low;
    s->range[1] = s->level[0];
    return 0;
}
