/* One model call per step over levels of sigma: k-diffusion's sample_euler, sample_euler_ancestral, sample_lms; ComfyUI's
 * sample_ipndm. */
#include <math.h>

#include "sampler/solver_impl.h"

/* DDIM with eta is the same step in exact arithmetic (arXiv:2010.02502, eq. 12 in x / sqrt(alpha_bar)), DDPM that with eta 1. */
void sampler_row_euler(const Sampler *s, int i, SamplerRow *r)
{
    int k = s->call[i].step;
    double from = s->call[i].sigma, to = s->level[k + 1], up = 0;
    double eta = s->c.kind == SAMPLER_EULER ? 0 : s->c.kind == SAMPLER_DDPM ? 1 : s->c.eta;
    sampler_row_init(s, i, r);
    if (s->c.kind != SAMPLER_EULER)
        sampler_ancestral(from, to, eta, &to, &up);
    r->next.x = to / from;
    r->next.d = 1 - to / from;
    r->next.noise = up * (s->c.s_noise > 0 ? s->c.s_noise : 1);
    if (sampler_is_index_based(&s->c) && s->c.clip_sample)
        r->clip = s->c.clip_range;
}

/* The derivative (x - d) / sigma becomes the newest kept value. */
static void keep_slope(double sigma, SamplerRow *r)
{
    r->keeps = 1;
    r->keep_x = 1 / sigma;
    r->keep_d = -1 / sigma;
}

/* Integral over [t_i, t_i+1] of the Lagrange polynomial that is 1 at level[i - j]; four Gauss points are exact for order 4. */
static double lms_weight(const double *level, int i, int j, int order)
{
    static const double node[2] = {0.3399810435848563, 0.8611363115940526}, weight[2] = {0.6521451548625461, 0.34785484513745385};
    double mid = (level[i] + level[i + 1]) / 2, half = (level[i + 1] - level[i]) / 2, sum = 0;
    for (int q = 0; q < 4; q++) {
        double tau = mid + (q & 1 ? -half : half) * node[q / 2], product = 1;
        for (int k = 0; k < order; k++)
            if (k != j)
                product *= (tau - level[i - k]) / (level[i - j] - level[i - k]);
        sum += weight[q / 2] * product;
    }
    return sum * half;
}

static int order_at(const Sampler *s, int k, int most)
{
    int known = k - sampler_first_step_of_run(s) + 1;
    return known < most ? known : most;
}

void sampler_row_lms(const Sampler *s, int i, SamplerRow *r)
{
    int k = s->call[i].step, order = order_at(s, k, s->c.order);
    sampler_row_init(s, i, r);
    keep_slope(s->call[i].sigma, r);
    r->next.x = 1;
    for (int j = 0; j < order; j++)
        r->next.h[j] = lms_weight(s->level, k, j, order);
}

/* Adams-Bashforth as if the steps were equal (arXiv:2202.09778 without its transfer function). */
void sampler_row_ipndm(const Sampler *s, int i, SamplerRow *r)
{
    static const double weight[4][4] = {{1}, {1.5, -0.5}, {23.0 / 12, -16.0 / 12, 5.0 / 12}, {55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24}};
    int k = s->call[i].step, order = order_at(s, k, 4);
    sampler_row_init(s, i, r);
    keep_slope(s->call[i].sigma, r);
    r->next.x = 1;
    for (int j = 0; j < order; j++)
        r->next.h[j] = weight[order - 1][j] * (s->level[k + 1] - s->level[k]);
}
