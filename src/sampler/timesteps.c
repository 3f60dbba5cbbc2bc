#include "sampler/timesteps.h"

#include <math.h>
#include <string.h>

static int is_dpm(const SamplerConf *c) { return c->kind == SAMPLER_DPMPP_2M || c->kind == SAMPLER_DPMPP_2M_SDE; }
static int is_sigma_based(const SamplerConf *c) { return c->kind != SAMPLER_DDIM && c->kind != SAMPLER_PNDM; }

int sampler_table(const SamplerConf *c, double *betas, double *alpha_bar)
{
    int rescale = c->zero_snr && c->kind != SAMPLER_PNDM && c->kind != SAMPLER_HEUN;
    TRY(sampler_betas(c->betas, c->beta_start, c->beta_end, c->train_steps, rescale, betas));
    sampler_alpha_bar(betas, c->train_steps, alpha_bar);
    if (rescale && is_sigma_based(c))
        alpha_bar[c->train_steps - 1] = 0x1p-24; /* keeps the first sigma finite: 4096 */
    return 0;
}

/* numpy's round-half-even; x is small. */
static double round_even(double x) { return nearbyint(x); }

/* Descending base timesteps, as each class computes them. DPM++ lays steps + 1 and drops the lowest. */
static void base_timesteps(const SamplerConf *c, double *t)
{
    int n = c->steps, T = c->train_steps, points = is_dpm(c) ? n + 1 : n;
    int whole = !(c->kind == SAMPLER_EULER || c->kind == SAMPLER_EULER_A || c->kind == SAMPLER_HEUN);
    for (int i = 0; i < n; i++) {
        int k = points - 1 - i; /* position from the low end */
        double v;
        if (c->spacing == SAMPLER_LEADING) {
            v = (double)(k * (T / points) + c->steps_offset);
        } else if (c->spacing == SAMPLER_TRAILING) {
            double step = ((double)T - (double)T / n) - (double)T;
            v = round_even((double)T + i * step) - 1;
        } else {
            v = points == 1 ? 0 : k == points - 1 ? T - 1.0 : k * ((T - 1.0) / (points - 1));
            v = whole ? round_even(v) : (double)(float)v;
        }
        t[i] = v;
    }
}

static float table_sigma(const double *ab, int i)
{
    float a = (float)ab[i];
    return sqrtf((1.0f - a) / a);
}

static double interpolate_sigma(const double *ab, int T, double t)
{
    if (t <= 0)
        return (double)table_sigma(ab, 0);
    if (t >= T - 1)
        return (double)table_sigma(ab, T - 1);
    int i = (int)t;
    double lo = (double)table_sigma(ab, i), hi = (double)table_sigma(ab, i + 1);
    return lo + (hi - lo) * (t - i);
}

/* Fractional timestep of a sigma, log-linear in the table (k-diffusion's sigma_to_t). */
static double sigma_to_t(const double *ab, int T, double sigma)
{
    double x = log(sigma > 1e-10 ? sigma : 1e-10);
    int low = 0, high = T - 1; /* the last entry that is not above x */
    while (low < high) {
        int mid = (low + high + 1) / 2;
        if ((double)logf(table_sigma(ab, mid)) <= x)
            low = mid;
        else
            high = mid - 1;
    }
    if (low > T - 2)
        low = T - 2;
    double a = (double)logf(table_sigma(ab, low)), b = (double)logf(table_sigma(ab, low + 1));
    double w = (a - x) / (a - b);
    w = w < 0 ? 0 : w > 1 ? 1 : w;
    return (1 - w) * low + w * (low + 1);
}

/* Overwrites sigma[] by Karras (arXiv:2206.00364, eq. 5, rho 7) or exponential spacing, and t[] accordingly. */
static void respace(const SamplerConf *c, const double *ab, double *t, double *sigma)
{
    int n = c->steps, T = c->train_steps;
    double hi = is_dpm(c) ? (double)table_sigma(ab, T - 1) : sigma[0];
    double lo = is_dpm(c) ? (double)table_sigma(ab, 0) : sigma[n - 1];
    double rho = 7, a = pow(hi, 1 / rho), b = pow(lo, 1 / rho);
    for (int i = 0; i < n; i++) {
        double r = n == 1 ? 0 : i / (double)(n - 1);
        if (c->sigmas == SAMPLER_SIGMAS_KARRAS)
            sigma[i] = pow(a + r * (b - a), rho);
        else
            sigma[i] = exp(log(hi) + r * (log(lo) - log(hi)));
        t[i] = sigma_to_t(ab, T, sigma[i]);
        if (!is_dpm(c))
            t[i] = (double)(float)t[i];
        else if (c->sigmas == SAMPLER_SIGMAS_KARRAS && c->betas != SAMPLER_BETAS_COSINE)
            t[i] = round_even(t[i]);
        else
            t[i] = floor(t[i]); /* diffusers casts to int64 */
    }
}

/* Heun visits every level but the first twice: s0, s1, s1, s2, s2, ..., 0. */
static int repeat_heun(int n, double *t, double *sigma)
{
    int count = 2 * n - 1;
    double last = sigma[n];
    for (int i = count - 1; i > 0; i--) {
        t[i] = t[(i + 1) / 2];
        sigma[i] = sigma[(i + 1) / 2];
    }
    sigma[count] = last;
    return count;
}

/* t[n] descending -> the order of PNDM's calls: PLMS repeats the second timestep; the Runge-Kutta start takes four calls
 * for each of the first three. */
static int repeat_pndm(const SamplerConf *c, double *t)
{
    int n = c->steps, half = c->train_steps / n / 2, k = 0;
    double out[16];
    if (c->skip_prk) {
        if (n == 1)
            return 1;
        memmove(t + 2, t + 1, (size_t)(n - 1) * sizeof *t);
        return n + 1;
    }
    for (int i = 0; i < 3; i++) {
        double mid = t[i + 1] + half;
        out[k++] = t[i];
        out[k++] = mid;
        out[k++] = mid;
        out[k++] = t[i + 1];
    }
    memmove(t + k, t + 3, (size_t)(n - 3) * sizeof *t);
    memcpy(t, out, (size_t)k * sizeof *t);
    return n + 9;
}

int sampler_timesteps(const SamplerConf *c, const double *ab, double *t, double *sigma)
{
    int n = c->steps, T = c->train_steps, count = n;
    base_timesteps(c, t);
    if (!is_sigma_based(c)) {
        if (c->kind == SAMPLER_PNDM)
            count = repeat_pndm(c, t);
        for (int i = 0; i < count; i++) {
            int k = (int)t[i] < 0 ? 0 : (int)t[i] < T ? (int)t[i] : T - 1;
            sigma[i] = sampler_sigma_of(ab[k]);
        }
        sigma[count] = c->set_alpha_to_one ? 0 : sampler_sigma_of(ab[0]);
        return count;
    }
    for (int i = 0; i < n; i++)
        sigma[i] = interpolate_sigma(ab, T, t[i]);
    if (c->sigmas != SAMPLER_SIGMAS_NORMAL)
        respace(c, ab, t, sigma);
    int has_final = c->kind == SAMPLER_EULER || is_dpm(c);
    sigma[n] = has_final && c->final_sigma_min ? (double)table_sigma(ab, 0) : 0;
    for (int i = 0; i <= n; i++)
        sigma[i] = (double)(float)sigma[i];
    return c->kind == SAMPLER_HEUN ? repeat_heun(n, t, sigma) : count;
}
