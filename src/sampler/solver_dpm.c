/* DPM-Solver and DPM-Solver++, arXiv:2206.00927 and 2211.01095: diffusers' DPMSolverMultistepScheduler and
 * DPMSolverSinglestepScheduler, k-diffusion's sample_dpmpp_2m, 2m_sde and 3m_sde. Kept values: x0, or epsilon for DPM-Solver.
 * lambda = log(alpha / sigma_t) = -log(sigma). */
#include <math.h>

#include "sampler/solver_impl.h"

static int is_sde(const SamplerConf *c) { return c->kind == SAMPLER_DPMPP_2M_SDE || c->kind == SAMPLER_DPMPP_3M_SDE; }

/* phi_1..3 weights of the value itself and its first two differences, for x_t = keep x + gain v + bend1 D1 + bend2 D2. */
typedef struct {
    double keep, gain, bend1, bend2, noise;
} Step;

/* eta: k-diffusion's; diffusers' SDE is eta 1. */
static Step dpm_step(const Sampler *s, double from, double to, double h)
{
    const SamplerConf *c = &s->c;
    double alpha = sampler_alpha(s, to), st = sampler_sigma_t(s, to), eta = is_sde(c) ? c->eta : 0, hh = h * (1 + eta);
    Step q = {0};
    if (c->kind == SAMPLER_DPM_2M) { /* in epsilon: the signs of h turn */
        q.keep = alpha / sampler_alpha(s, from);
        q.gain = -alpha * (from - to); /* sigma_t (exp(h) - 1) */
        if (!isfinite(h))
            return q;
        q.bend1 = -st * (expm1(h) / h - 1);
        q.bend2 = -st * ((expm1(h) - h) / (h * h) - 0.5);
        return q;
    }
    if (!isfinite(h)) /* down to sigma 0 */
        return (Step){.gain = alpha};
    q.keep = st / sampler_sigma_t(s, from) * exp(-eta * h);
    q.gain = -alpha * expm1(-hh);
    q.bend1 = alpha * (expm1(-hh) / hh + 1);
    q.bend2 = -alpha * ((expm1(-hh) / hh + 1) / hh - 0.5);
    if (c->kind == SAMPLER_DPMPP_3M_SDE && c->rules == SAMPLER_RULES_DIFFUSERS)
        q.bend2 = alpha * ((-expm1(-hh) - hh) / (hh * hh) - 0.5); /* its sign of 1/2 */
    q.noise = eta > 0 ? st * sqrt(-expm1(-2 * eta * h)) * (c->s_noise > 0 ? c->s_noise : 1) : 0;
    return q;
}

static void keep_value(const Sampler *s, int i, SamplerRow *r)
{
    r->keeps = 1;
    if (s->c.kind == SAMPLER_DPM_2M)
        sampler_eps_weights(s, i, &r->keep_x, &r->keep_m);
    else
        r->keep_d = 1;
}

/* The order is raised by one each call, and lowered at the end: by diffusers' rules, or k-diffusion's (only the step to 0). */
static int order_at(const Sampler *s, int k)
{
    const SamplerConf *c = &s->c;
    int known = k - sampler_first_step_of_run(s) + 1, order = known < c->order ? known : c->order, n = s->steps;
    if (c->rules > SAMPLER_RULES_DIFFUSERS)
        return s->level[k + 1] > 0 ? order : 1;
    int few = c->lower_order_final && n < 15;
    if (k == n - 1 && (c->euler_at_final || few || !c->final_sigma_min))
        return 1;
    return k == n - 2 && few && order > 2 ? 2 : order;
}

static double h_of(const Sampler *s, int k) { return log(s->level[k]) - log(s->level[k + 1]); }

/* D1 and D2 as weights of the newest three values (arXiv:2211.01095, algorithm 2; third order as in both reference programs). */
static void differences(const Sampler *s, int k, double h, int order, double d1[3], double d2[3])
{
    double r0 = h_of(s, k - 1) / h, a[3] = {1 / r0, -1 / r0, 0}, b[3] = {0, 0, 0};
    for (int j = 0; j < 3; j++)
        d1[j] = a[j], d2[j] = 0;
    if (order < 3)
        return;
    double r1 = h_of(s, k - 2) / h;
    b[1] = 1 / r1, b[2] = -1 / r1;
    for (int j = 0; j < 3; j++) {
        d1[j] = a[j] + (a[j] - b[j]) * r0 / (r0 + r1);
        d2[j] = (a[j] - b[j]) / (r0 + r1);
    }
}

void sampler_row_dpm(const Sampler *s, int i, SamplerRow *r)
{
    int k = s->call[i].step, order = order_at(s, k);
    double h = h_of(s, k), d1[3], d2[3];
    Step q = dpm_step(s, s->level[k], s->level[k + 1], h);
    sampler_row_init(s, i, r);
    keep_value(s, i, r);
    r->next.x = q.keep;
    r->next.h[0] = q.gain;
    r->next.noise = q.noise;
    if (order < 2)
        return;
    differences(s, k, h, order, d1, d2);
    /* The third order's bend1 is the exact one; the second order takes it or, by default, the midpoint's. 3M SDE always the former. */
    int exact = order == 3 || s->c.heun_correction || (s->c.kind == SAMPLER_DPMPP_3M_SDE && s->c.rules != SAMPLER_RULES_DIFFUSERS);
    double bend1 = exact ? q.bend1 : q.gain / 2;
    for (int j = 0; j < 3; j++)
        r->next.h[j] += bend1 * d1[j] + (order == 3 ? q.bend2 * d2[j] : 0);
}

/* Singlestep: a step of order o starts anew at the sample of o - 1 calls ago; saved: that sample. */
void sampler_row_dpm_single(const Sampler *s, int i, SamplerRow *r)
{
    int k = s->call[i].step, order = s->order_of[k], known = k - sampler_first_step_of_run(s) + 1;
    order = order < known ? order : known;
    int from = k - order + 1;
    double h = log(s->level[from]) - log(s->level[k + 1]);
    Step q = dpm_step(s, s->level[from], s->level[k + 1], h);
    sampler_row_init(s, i, r);
    keep_value(s, i, r);
    if (order == 1) {
        r->saves = 1;
        r->save.x = 1;
        r->next.x = q.keep;
        r->next.h[0] = q.gain;
        return;
    }
    double r0 = (log(s->level[from]) - log(s->level[k])) / h;
    r->next.saved = q.keep;
    if (order == 2) {
        double bend = (s->c.heun_correction ? q.bend1 : q.gain / 2) / r0;
        r->next.h[1] = q.gain - bend;
        r->next.h[0] = bend;
        return;
    }
    double r1 = (log(s->level[from]) - log(s->level[k - 1])) / h; /* values: h[2] at `from`, h[1] at r1, h[0] at r0 */
    double first0 = s->c.heun_correction ? r0 / (r0 - r1) : 0, bend2 = s->c.heun_correction ? q.bend2 : 0;
    double w0 = s->c.heun_correction ? (-r1 / (r0 - r1)) / r0 * q.bend1 : q.bend1 / r0;
    double w1 = s->c.heun_correction ? first0 / r1 * q.bend1 : 0;
    w0 += bend2 * 2 / (r0 - r1) / r0;
    w1 -= bend2 * 2 / (r0 - r1) / r1;
    r->next.h[0] = w0;
    r->next.h[1] = w1;
    r->next.h[2] = q.gain - w0 - w1;
}
