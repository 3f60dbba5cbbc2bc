/* DEIS, arXiv:2204.13902: diffusers' DEISMultistepScheduler (logarithmic rho), ComfyUI's sample_deis (its "tab" coefficients after
 * zju-pi/diff-sampler). Kept values: epsilon. */
#include <math.h>

#include "sampler/solver_impl.h"

static int known_at(const Sampler *s, int k) { return k - sampler_first_step_of_run(s) + 1; }

/* Integral of (log t - log c) / (log b - log c). */
static double ind2(double t, double b, double c) { return t * (-log(c) + log(t) - 1) / (log(b) - log(c)); }

/* Integral of (log t - log c)(log t - log d) / ((log b - log c)(log b - log d)). */
static double ind3(double t, double b, double c, double d)
{
    double lt = log(t), lc = log(c), ld = log(d), lb = log(b);
    return t * (lc * (ld - lt + 1) - ld * lt + ld + lt * lt - 2 * lt + 2) / ((lb - lc) * (lb - ld));
}

void sampler_row_deis(const Sampler *s, int i, SamplerRow *r)
{
    int k = s->call[i].step, n = s->steps, few = s->c.lower_order_final && n < 15, order = known_at(s, k);
    double t = s->level[k + 1], a = s->level[k], alpha = sampler_alpha(s, t);
    order = order < s->c.order ? order : s->c.order;
    if (k == n - 1 && few)
        order = 1;
    else if (k == n - 2 && few && order > 2)
        order = 2;
    if (!(t > 0))
        order = 1;
    sampler_row_init(s, i, r);
    r->keeps = 1;
    sampler_eps_weights(s, i, &r->keep_x, &r->keep_m);
    r->next.x = alpha / sampler_alpha(s, a);
    if (order == 1) {
        r->next.h[0] = alpha * (t - a);
    } else if (order == 2) {
        double b = s->level[k - 1];
        r->next.h[0] = alpha * (ind2(t, a, b) - ind2(a, a, b));
        r->next.h[1] = alpha * (ind2(t, b, a) - ind2(a, b, a));
    } else {
        double b = s->level[k - 1], c = s->level[k - 2];
        r->next.h[0] = alpha * (ind3(t, a, b, c) - ind3(a, a, b, c));
        r->next.h[1] = alpha * (ind3(t, b, c, a) - ind3(a, b, c, a));
        r->next.h[2] = alpha * (ind3(t, c, a, b) - ind3(a, c, a, b));
    }
}

/* The time of a VP process with the ends that ComfyUI passes by default, sigma 0.002 at t 0.001 and 80 at t 1. */
typedef struct {
    double d, min;
} Vp;

static Vp vp_of(void)
{
    double e = 1e-3, lo = log(0.002 * 0.002 + 1), hi = log(80.0 * 80.0 + 1), d = 2 * (lo / e - hi) / (e - 1);
    return (Vp){d, hi - 0.5 * d};
}

static double vp_time(Vp v, double sigma)
{
    return (sqrt(v.min * v.min + 2 * v.d * log(sigma * sigma + 1)) - v.min) / v.d;
}

/* Sum over 10000 points as ComfyUI takes it: a rectangle rule whose points include both ends. */
static double tab_weight(Vp v, const double *t, int order, int j, double next)
{
    enum { POINTS = 10000 };
    double sum = 0;
    for (int q = 0; q < POINTS; q++) {
        double tau = t[0] + (next - t[0]) * q / (POINTS - 1), product = 1;
        double log_alpha = -0.5 * tau * tau * v.d - tau * v.min, slope = -tau * v.d - v.min;
        double alpha = exp(log_alpha), f = -0.5 * slope / sqrt(alpha * (1 - alpha));
        for (int m = 0; m < order; m++)
            if (m != j)
                product *= (tau - t[m]) / (t[j] - t[m]);
        sum += f * product;
    }
    return sum * (next - t[0]) / POINTS;
}

void sampler_row_deis_tab(const Sampler *s, int i, SamplerRow *r)
{
    int k = s->call[i].step, order = known_at(s, k);
    double from = s->level[k], to = s->level[k + 1], t[3];
    Vp v = vp_of();
    order = order < 3 ? order : 3;
    if (!(to > 0))
        order = 1;
    sampler_row_init(s, i, r);
    r->keeps = 1;
    r->keep_x = 1 / from;
    r->keep_d = -1 / from;
    r->next.x = 1;
    for (int m = 0; m < order; m++)
        t[m] = vp_time(v, s->level[k - m]);
    for (int j = 0; j < order; j++)
        r->next.h[j] = order == 1 ? to - from : tab_weight(v, t, order, j, vp_time(v, to));
}
