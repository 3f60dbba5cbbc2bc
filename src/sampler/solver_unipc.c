/* UniPC, arXiv:2302.04867, algorithm 5 (data prediction, B(h) versions): a corrector that uses the new model output for the last step,
 * then a predictor. Equal to diffusers' UniPCMultistepScheduler and the authors' multistep program that ComfyUI and A1111 run.
 * Kept values: x0. Saved: the corrected sample of the last call. */
#include <math.h>
#include <string.h>

#include "sampler/solver_impl.h"

enum { MOST = 4 };

static double lambda_of(const Sampler *s, int k) { return -log(s->level[k]); }

/* Gaussian elimination with the largest pivot; a is n x n. */
static void solve(double a[MOST][MOST], double *b, int n)
{
    for (int c = 0; c < n; c++) {
        int p = c;
        for (int i = c + 1; i < n; i++)
            p = fabs(a[i][c]) > fabs(a[p][c]) ? i : p;
        for (int j = 0; j < n; j++) {
            double t = a[c][j];
            a[c][j] = a[p][j];
            a[p][j] = t;
        }
        double t = b[c];
        b[c] = b[p];
        b[p] = t;
        for (int i = c + 1; i < n; i++) {
            double f = a[i][c] / a[c][c];
            for (int j = c; j < n; j++)
                a[i][j] -= f * a[c][j];
            b[i] -= f * b[c];
        }
    }
    for (int c = n - 1; c >= 0; c--) {
        for (int j = c + 1; j < n; j++)
            b[c] -= a[c][j] * b[j];
        b[c] /= a[c][c];
    }
}

/* rho of n unknowns over the places rk[n] for the step h; and B(h). */
static double weights(const Sampler *s, double h, const double *rk, int n, double *rho)
{
    double hh = -h, phi1 = expm1(hh), phi_k = phi1 / hh - 1, factorial = 1, bh = s->c.unipc_bh == 1 ? hh : phi1, a[MOST][MOST];
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++)
            a[i][j] = pow(rk[j], i);
        rho[i] = phi_k * factorial / bh;
        factorial *= i + 2;
        phi_k = phi_k / hh - 1 / factorial;
    }
    solve(a, rho, n);
    return bh;
}

/* Order of the step k: raised by one each call, and never beyond the steps that are left. */
static int order_at(const Sampler *s, int k)
{
    int known = k - sampler_first_step_of_run(s) + 1, order = s->c.order, left = s->steps - k;
    if (s->c.lower_order_final || s->c.rules > SAMPLER_RULES_DIFFUSERS)
        order = order < left ? order : left;
    return order < known ? order : known;
}

/* From level k to k + 1: x' = keep x + sum of w[j] * (value at level k - j), w[-1] of the value at k + 1 when correcting. */
static double transition(const Sampler *s, int k, int order, int correct, double w[MOST + 1], double *newest)
{
    double to = s->level[k + 1], alpha = sampler_alpha(s, to), h = lambda_of(s, k + 1) - lambda_of(s, k), rk[MOST], rho[MOST] = {0};
    memset(w, 0, (MOST + 1) * sizeof *w);
    *newest = 0;
    if (!isfinite(h)) { /* down to sigma 0: order 1 */
        w[0] = alpha;
        return 0;
    }
    for (int j = 1; j < order; j++)
        rk[j - 1] = (lambda_of(s, k - j) - lambda_of(s, k)) / h;
    rk[order - 1] = 1;
    double bh = s->c.unipc_bh == 1 ? -h : expm1(-h);
    int unknowns = correct ? order : order - 1;
    if ((correct && order == 1) || (!correct && order == 2))
        rho[0] = 0.5;
    else if (unknowns > 0)
        weights(s, h, rk, unknowns, rho);
    w[0] = -alpha * expm1(-h);
    for (int j = 1; j < order; j++) {
        double v = -alpha * bh * rho[j - 1] / rk[j - 1];
        w[j] += v;
        w[0] -= v;
    }
    if (correct) {
        *newest = -alpha * bh * rho[order - 1];
        w[0] -= *newest;
    }
    return sampler_sigma_t(s, to) / sampler_sigma_t(s, s->level[k]);
}

void sampler_row_unipc(const Sampler *s, int i, SamplerRow *r)
{
    int k = s->call[i].step, first = sampler_first_step_of_run(s);
    double c[MOST + 1], p[MOST + 1], newest, unused, keep;
    sampler_row_init(s, i, r);
    r->keeps = 1;
    r->keep_d = 1;
    r->saves = 1;
    if (k > first) {
        r->save.saved = transition(s, k - 1, order_at(s, k - 1), 1, c, &newest);
        r->save.h[0] = newest;
        for (int j = 0; j + 1 < MOST; j++)
            r->save.h[j + 1] = c[j];
    } else {
        r->save.x = 1;
    }
    keep = transition(s, k, order_at(s, k), 0, p, &unused);
    r->next.x = keep * r->save.x;
    r->next.saved = keep * r->save.saved;
    for (int j = 0; j < MOST; j++)
        r->next.h[j] = keep * r->save.h[j] + p[j];
}
