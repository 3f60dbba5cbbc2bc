#include <math.h>
#include <string.h>

#include "sampler/solver_impl.h"

enum { AYS_POINTS = 11 };
static const double BETA_SHAPE = 0.6; /* arXiv:2407.12173; default of all three programs */

/* Continued fraction of the incomplete beta function (Numerical Recipes, "betacf"; DLMF 8.17.22). */
static double beta_fraction(double x, double a, double b)
{
    const double tiny = 1e-300;
    double c = 1, d = 1 - (a + b) * x / (a + 1);
    d = 1 / (fabs(d) < tiny ? tiny : d);
    double f = d;
    for (int m = 1; m < 500; m++) {
        double e = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), o = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        for (int k = 0; k < 2; k++) {
            double w = k ? o : e;
            d = 1 + w * d;
            d = 1 / (fabs(d) < tiny ? tiny : d);
            c = 1 + w / c;
            c = fabs(c) < tiny ? tiny : c;
            f *= c * d;
        }
        if (fabs(c * d - 1) < 1e-16)
            break;
    }
    return f;
}

static double beta_cdf(double x, double a, double b)
{
    if (x <= 0 || x >= 1)
        return x <= 0 ? 0 : 1;
    double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x));
    return x < (a + 1) / (a + b + 2) ? front * beta_fraction(x, a, b) / a : 1 - front * beta_fraction(1 - x, b, a) / b;
}

double sampler_beta_ppf(double p, double a, double b)
{
    double lo = 0, hi = 1;
    if (p <= 0 || p >= 1)
        return p <= 0 ? 0 : 1;
    for (int i = 0; i < 200 && hi - lo > 1e-17; i++) {
        double mid = (lo + hi) / 2;
        if (beta_cdf(mid, a, b) < p)
            lo = mid;
        else
            hi = mid;
    }
    return (lo + hi) / 2;
}

double sampler_sigma_between(const SamplerConf *c, double hi, double lo, int i, int n)
{
    double w = n == 1 ? 0 : i / (double)(n - 1), rho = c->rho > 0 ? c->rho : 7;
    switch (c->sigmas) {
    case SAMPLER_SIGMAS_KARRAS: {
        double a = pow(hi, 1 / rho), b = pow(lo, 1 / rho);
        return pow(a + w * (b - a), rho);
    }
    case SAMPLER_SIGMAS_POLYEXPONENTIAL: return exp(log(lo) + pow(1 - w, c->rho > 0 ? c->rho : 1) * (log(hi) - log(lo)));
    case SAMPLER_SIGMAS_BETA: return lo + sampler_beta_ppf(1 - w, BETA_SHAPE, BETA_SHAPE) * (hi - lo);
    default: return exp(log(hi) + w * (log(lo) - log(hi)));
    }
}

/* Tables of the authors as each program writes them (arXiv:2404.14507): A1111 and diffusers with three decimals, ComfyUI in full. */
static const double ays_table[2][2][AYS_POINTS] = {
    {{14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029},
     {14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029}},
    {{14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092, 0.9642583904, 0.6523686016, 0.3977456272,
      0.1515232662, 0.0291671582},
     {14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141, 0.5550693289, 0.3798540708, 0.2332364134,
      0.1114188177, 0.0291671582}}};

/* A1111: n levels of the table, then 0. ComfyUI and diffusers: n + 1, the last of which becomes 0. */
static int fill_ays(const SamplerConf *c, int n, double *out)
{
    const double *table = ays_table[c->rules == SAMPLER_RULES_COMFY][c->sigmas == SAMPLER_SIGMAS_AYS_SDXL];
    int points = c->rules == SAMPLER_RULES_A1111 ? n : n + 1;
    for (int i = 0; i < points; i++) {
        double at = points == 1 ? 0 : i * (AYS_POINTS - 1.0) / (points - 1);
        int k = (int)at < AYS_POINTS - 1 ? (int)at : AYS_POINTS - 2;
        double w = at - k;
        out[i] = points == AYS_POINTS ? table[i] : exp((1 - w) * log(table[k]) + w * log(table[k + 1]));
    }
    out[n] = 0;
    return n;
}

static int fill_uniform(const SamplerTable *t, int n, int points, double *out)
{
    for (int i = 0; i < n; i++) {
        float step = points == 1 ? 0 : (float)(t->n - 1) / (float)(points - 1);
        float at = i < points / 2 ? (float)(t->n - 1) - step * (float)i : step * (float)(points - 1 - i); /* torch.linspace */
        out[i] = sampler_table_sigma_log(t, points == 1 ? t->n - 1.0 : (double)at);
    }
    out[n] = 0;
    return n;
}

/* Every (T / n)-th entry from index 1 up, reversed: not always n of them. */
static int fill_ddim(const SamplerTable *t, int n, double *out)
{
    int stride = t->n / n > 0 ? t->n / n : 1, count = (t->n - 2) / stride + 1;
    for (int i = 0; i < count; i++)
        out[i] = t->sigma[1 + (count - 1 - i) * stride];
    out[count] = 0;
    return count;
}

/* ComfyUI rounds to table entries and drops repeated ones. */
static int fill_beta_comfy(const SamplerTable *t, int n, double *out)
{
    int count = 0, last = -1;
    for (int i = 0; i < n; i++) {
        int k = (int)nearbyint(sampler_beta_ppf(1 - i / (double)n, BETA_SHAPE, BETA_SHAPE) * (t->n - 1));
        if (k != last)
            out[count++] = t->sigma[k];
        last = k;
    }
    out[count] = 0;
    return count;
}

/* A1111 has n + 1 points, the last of them sigma_min; ComfyUI n points and 0. */
static int fill_kl(const SamplerConf *c, double hi, double lo, int n, double *out)
{
    int a1111 = c->rules == SAMPLER_RULES_A1111, points = a1111 ? n + 1 : n;
    for (int i = 0; i < points; i++) {
        double w = points == 1 ? 0 : i / (double)(points - 1);
        out[i] = tan(w * atan(lo) + (1 - w) * atan(hi));
    }
    if (!a1111)
        out[n] = 0;
    return n;
}

/* Trailing and leading as lists of sigmas: the timesteps of arXiv:2305.08891, table 2. */
static int fill_spaced(const SamplerConf *c, const SamplerTable *t, int n, double *out)
{
    for (int i = 0; i < n; i++) {
        double at = c->spacing == SAMPLER_TRAILING ? nearbyint(t->n - i * ((double)t->n / n)) - 1 : (n - 1 - i) * (t->n / n) + c->steps_offset;
        out[i] = sampler_table_sigma_log(t, at);
    }
    out[n] = 0;
    return n;
}

int sampler_sigmas_room(const SamplerConf *c, int steps) { return (steps > c->train_steps ? steps : c->train_steps) + 2; }

int sampler_sigmas(const SamplerConf *c, const SamplerTable *t, int n, double *out)
{
    double hi = c->sigma_max > 0 ? c->sigma_max : t->sigma[t->n - 1], lo = c->sigma_min > 0 ? c->sigma_min : t->sigma[0];
    int count = n;
    switch (c->sigmas) {
    case SAMPLER_SIGMAS_AUTOMATIC:
    case SAMPLER_SIGMAS_NORMAL:
        count = !c->spaced || c->spacing == SAMPLER_LINSPACE ? fill_uniform(t, n, n, out) : fill_spaced(c, t, n, out);
        break;
    case SAMPLER_SIGMAS_SGM_UNIFORM: count = fill_uniform(t, n, n + 1, out); break;
    case SAMPLER_SIGMAS_SIMPLE:
        for (int i = 0; i < n; i++)
            out[i] = t->sigma[t->n - 1 - (int)(i * (t->n / (double)n))];
        out[n] = 0;
        break;
    case SAMPLER_SIGMAS_DDIM_UNIFORM: count = fill_ddim(t, n, out); break;
    case SAMPLER_SIGMAS_KL_OPTIMAL: count = fill_kl(c, hi, lo, n, out); break;
    case SAMPLER_SIGMAS_AYS:
    case SAMPLER_SIGMAS_AYS_SDXL: count = fill_ays(c, n, out); break;
    default:
        if (c->sigmas == SAMPLER_SIGMAS_BETA && c->rules != SAMPLER_RULES_A1111) {
            count = fill_beta_comfy(t, n, out);
            break;
        }
        for (int i = 0; i < n; i++)
            out[i] = sampler_sigma_between(c, hi, lo, i, n);
        out[n] = 0;
    }
    for (int i = 0; i <= count; i++)
        out[i] = (double)(float)out[i];
    return count;
}
