#include <math.h>
#include <stdlib.h>

#include "sampler/solver_impl.h"

/* Classes of diffusers without rescale_betas_zero_snr. */
static int rescales(const SamplerConf *c)
{
    static const unsigned lacks = 1u << SAMPLER_PNDM | 1u << SAMPLER_HEUN | 1u << SAMPLER_LMS | 1u << SAMPLER_DPM2 | 1u << SAMPLER_DPM2_A |
                                  1u << SAMPLER_DPMPP_SDE | 1u << SAMPLER_DPMPP_2S | 1u << SAMPLER_DEIS;
    return c->zero_snr && !(c->rules == SAMPLER_RULES_DIFFUSERS && lacks >> c->kind & 1);
}

static int by_index(const SamplerConf *c)
{
    return c->kind == SAMPLER_DDIM || c->kind == SAMPLER_PNDM || c->kind == SAMPLER_DDPM || c->kind == SAMPLER_LCM || c->kind == SAMPLER_TCD;
}

static int fill_diffusers(SamplerTable *t, const SamplerConf *c, double *betas)
{
    TRY(sampler_betas(c->betas, c->beta_start, c->beta_end, t->n, rescales(c), betas));
    sampler_alpha_bar(betas, t->n, t->bar);
    if (rescales(c) && !by_index(c))
        t->bar[t->n - 1] = 0x1p-24; /* keeps the first sigma finite: 4096 */
    for (int i = 0; i < t->n; i++) {
        float a = (float)t->bar[i];
        t->sigma[i] = (double)sqrtf((1.0f - a) / a);
    }
    return 0;
}

/* rescale_zero_terminal_snr of both programs, whose last alpha_bar is this small number. */
static void rescale(double *bar, int n)
{
    double first = sqrt(bar[0]), last = sqrt(bar[n - 1]);
    for (int i = 0; i < n; i++) {
        double root = (sqrt(bar[i]) - last) * (first / (first - last));
        bar[i] = root * root;
    }
    bar[n - 1] = 4.8973451890853435e-08;
}

/* Double precision betas as LDM's make_beta_schedule; A1111 rounds alpha_bar to float, ComfyUI sigma. */
static int fill_ldm(SamplerTable *t, const SamplerConf *c, double *betas)
{
    TRY(sampler_betas(c->betas, c->beta_start, c->beta_end, t->n, 0, betas));
    double product = 1, a = c->beta_start, b = c->beta_end;
    for (int i = 0; i < t->n; i++) {
        double w = t->n > 1 ? i / (double)(t->n - 1) : 0, root = sqrt(a) + w * (sqrt(b) - sqrt(a));
        double beta = c->betas == SAMPLER_BETAS_LINEAR ? a + w * (b - a) : c->betas == SAMPLER_BETAS_SCALED_LINEAR ? root * root : betas[i];
        product *= 1 - beta;
        t->bar[i] = product;
    }
    if (c->zero_snr)
        rescale(t->bar, t->n);
    for (int i = 0; i < t->n; i++) {
        if (c->rules == SAMPLER_RULES_A1111)
            t->bar[i] = (double)(float)t->bar[i];
        t->sigma[i] = (double)(float)sqrt((1 - t->bar[i]) / t->bar[i]);
    }
    return 0;
}

int sampler_table_init(SamplerTable *t, const SamplerConf *c)
{
    size_t n = (size_t)c->train_steps;
    *t = (SamplerTable){.n = c->train_steps};
    t->bar = malloc(n * sizeof *t->bar);
    t->sigma = malloc(n * sizeof *t->sigma);
    t->log_sigma = malloc(n * sizeof *t->log_sigma);
    double *betas = malloc(n * sizeof *betas);
    int rc = t->bar && t->sigma && t->log_sigma && betas ? 0 : err_set(ERR_NOMEM, "out of memory: noise table");
    if (rc == 0)
        rc = c->rules <= SAMPLER_RULES_DIFFUSERS ? fill_diffusers(t, c, betas) : fill_ldm(t, c, betas);
    for (int i = 0; i < t->n && rc == 0; i++)
        t->log_sigma[i] = (double)logf((float)t->sigma[i]);
    free(betas);
    return rc;
}

void sampler_table_deinit(SamplerTable *t)
{
    free(t->bar);
    free(t->sigma);
    free(t->log_sigma);
    *t = (SamplerTable){0};
}

/* Place between table entries: *low and the weight of the next one. */
static double place(const SamplerTable *t, double step, int *low)
{
    double at = step < 0 ? 0 : step > t->n - 1 ? t->n - 1.0 : step;
    *low = (int)at < t->n - 1 ? (int)at : t->n - 2;
    return at - *low;
}

double sampler_table_sigma_linear(const SamplerTable *t, double step)
{
    int i;
    double w = place(t, step, &i);
    if (w <= 0)
        return t->sigma[i];
    return w >= 1 ? t->sigma[i + 1] : t->sigma[i] + (t->sigma[i + 1] - t->sigma[i]) * w;
}

double sampler_table_sigma_log(const SamplerTable *t, double step)
{
    int i;
    double w = place(t, step, &i);
    return (double)(float)exp((1 - w) * t->log_sigma[i] + w * t->log_sigma[i + 1]);
}

/* The last entry that is not above x. */
static int last_below(const SamplerTable *t, double x)
{
    int low = 0, high = t->n - 1;
    while (low < high) {
        int mid = (low + high + 1) / 2;
        if (t->log_sigma[mid] <= x)
            low = mid;
        else
            high = mid - 1;
    }
    return low;
}

double sampler_table_t(const SamplerTable *t, double sigma)
{
    double x = log(sigma > 1e-10 ? sigma : 1e-10);
    int low = last_below(t, x);
    if (low > t->n - 2)
        low = t->n - 2;
    double a = t->log_sigma[low], b = t->log_sigma[low + 1], w = (a - x) / (a - b);
    w = w < 0 ? 0 : w > 1 ? 1 : w;
    return (1 - w) * low + w * (low + 1);
}

int sampler_table_nearest(const SamplerTable *t, double sigma)
{
    double x = (double)logf((float)sigma);
    int low = last_below(t, x);
    if (low < t->n - 1 && (double)fabsf((float)(x - t->log_sigma[low + 1])) < (double)fabsf((float)(x - t->log_sigma[low])))
        low++;
    return low;
}
