/* Two model calls per step over levels of sigma, one where the step ends at 0: k-diffusion's sample_heun, sample_dpm_2,
 * sample_dpm_2_ancestral, sample_dpmpp_2s_ancestral, sample_dpmpp_sde. */
#include <math.h>

#include "sampler/solver_impl.h"

static double noise_scale(const Sampler *s) { return s->c.s_noise > 0 ? s->c.s_noise : 1; }

static int is_single(const Sampler *s, int i) { return s->call[i].part == 0 && !(i + 1 < s->count && s->call[i + 1].part == 1); }

static void save_x(SamplerRow *r)
{
    r->saves = 1;
    r->save.x = 1;
}

/* x + (to - sigma) (x - d) / sigma */
static void euler(SamplerRow *r, double sigma, double to)
{
    r->next.x = to / sigma;
    r->next.d = 1 - to / sigma;
}

/* Kept: the first slope. Saved: the sample it was taken at. */
void sampler_row_heun(const Sampler *s, int i, SamplerRow *r)
{
    int k = s->call[i].step;
    double sigma = s->call[i].sigma, to = s->level[k + 1];
    sampler_row_init(s, i, r);
    if (s->c.clip_sample && s->c.rules <= SAMPLER_RULES_DIFFUSERS)
        r->clip = s->c.clip_range;
    if (s->call[i].part == 0) {
        r->keeps = 1;
        r->keep_x = 1 / sigma;
        r->keep_d = -1 / sigma;
        save_x(r);
        euler(r, sigma, to);
    } else {
        double dt = to - s->call[i - 1].sigma;
        r->next.saved = 1;
        r->next.h[0] = dt / 2;
        r->next.x = dt / 2 / sigma;
        r->next.d = -dt / 2 / sigma;
    }
}

void sampler_row_dpm2(const Sampler *s, int i, SamplerRow *r)
{
    int k = s->call[i].step;
    double sigma = s->call[i].sigma, to = s->level[k + 1], up = 0;
    sampler_row_init(s, i, r);
    if (s->c.kind == SAMPLER_DPM2_A)
        sampler_ancestral(s->level[k], to, s->c.eta, &to, &up);
    if (is_single(s, i)) {
        euler(r, sigma, to);
    } else if (s->call[i].part == 0) {
        save_x(r);
        euler(r, sigma, s->call[i + 1].sigma);
    } else {
        double dt = to - s->call[i - 1].sigma;
        r->next.saved = 1;
        r->next.x = dt / sigma;
        r->next.d = -dt / sigma;
        r->next.noise = up * noise_scale(s);
    }
}

void sampler_row_2s_a(const Sampler *s, int i, SamplerRow *r)
{
    int k = s->call[i].step;
    double from = s->level[k], to = s->level[k + 1], up = 0;
    sampler_row_init(s, i, r);
    sampler_ancestral(from, to, s->c.kind == SAMPLER_DPMPP_2S ? 0 : s->c.eta, &to, &up);
    if (is_single(s, i)) {
        euler(r, from, to);
    } else if (s->call[i].part == 0) { /* exp(-h/2) x + (1 - exp(-h/2)) d */
        save_x(r);
        euler(r, from, s->call[i + 1].sigma);
    } else {
        r->next.saved = to / from;
        r->next.d = 1 - to / from;
        r->next.noise = up * noise_scale(s);
    }
}

/* r = 1/2, so that the second estimate alone counts. */
void sampler_row_sde(const Sampler *s, int i, SamplerRow *r)
{
    int k = s->call[i].step;
    double from = s->level[k], to = s->level[k + 1], down, up;
    sampler_row_init(s, i, r);
    if (is_single(s, i)) {
        euler(r, from, to);
        return;
    }
    sampler_ancestral(from, s->call[i].part == 0 ? s->call[i + 1].sigma : to, s->c.eta, &down, &up);
    r->next.noise = up * noise_scale(s);
    r->next.d = 1 - down / from;
    if (s->call[i].part == 0) {
        save_x(r);
        r->next.x = down / from;
    } else {
        r->next.saved = down / from;
    }
}
