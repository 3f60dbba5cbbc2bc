#include "sampler/schedule.h"

#include <math.h>
#include <string.h>

/* torch.linspace in float: counted from both ends. */
static float linspace_f32(float a, float b, int n, int i)
{
    if (n == 1)
        return a;
    float step = (b - a) / (float)(n - 1);
    return i < n / 2 ? a + step * (float)i : b - step * (float)(n - 1 - i);
}

static double cosine_bar(double t)
{
    double c = cos((t + 0.008) / 1.008 * M_PI / 2);
    return c * c;
}

/* Through float roundings, since diffusers rescales float tables. */
static void rescale_zero_snr(double *betas, int n)
{
    double prod = 1, first = 0, last = 0, prev = 0;
    for (int i = 0; i < n; i++) {
        prod *= (double)(1.0f - (float)betas[i]);
        last = sqrt((double)(float)prod);
        if (i == 0)
            first = last;
    }
    prod = 1;
    for (int i = 0; i < n; i++) {
        prod *= (double)(1.0f - (float)betas[i]);
        double root = (sqrt((double)(float)prod) - last) * (first / (first - last));
        double bar = i == n - 1 ? 0 : root * root;
        betas[i] = (double)(float)(1 - (i == 0 ? bar : bar / prev));
        prev = bar;
    }
}

int sampler_betas(SamplerBetas kind, double start, double end, int steps, int zero_snr, double *betas)
{
    if (steps < 1 || steps > SAMPLER_MAX_TRAIN_STEPS)
        return err_set(ERR_RANGE, "num_train_timesteps %d: expected 1..%d", steps, (int)SAMPLER_MAX_TRAIN_STEPS);
    if (kind != SAMPLER_BETAS_COSINE && !(start > 0 && start <= end && end < 1))
        return err_set(ERR_RANGE, "beta_start %g, beta_end %g: expected 0 < beta_start <= beta_end < 1", start, end);
    if (zero_snr && steps < 2)
        return err_set(ERR_RANGE, "rescale_betas_zero_snr needs at least 2 training timesteps");
    for (int i = 0; i < steps; i++) {
        float b = 0;
        if (kind == SAMPLER_BETAS_LINEAR) {
            b = linspace_f32((float)start, (float)end, steps, i);
        } else if (kind == SAMPLER_BETAS_SCALED_LINEAR) {
            b = linspace_f32((float)sqrt(start), (float)sqrt(end), steps, i);
            b *= b;
        } else {
            double v = 1 - cosine_bar((i + 1.0) / steps) / cosine_bar((double)i / steps);
            b = (float)(v < 0.999 ? v : 0.999);
        }
        betas[i] = (double)b;
    }
    if (zero_snr)
        rescale_zero_snr(betas, steps);
    for (int i = 0; i < steps; i++)
        if (!isfinite(betas[i]))
            return err_set(ERR_RANGE, "rescale_betas_zero_snr: betas so large that no signal is left at timestep %d", i - 1);
    return 0;
}

/* torch's float cumprod accumulates in double. */
void sampler_alpha_bar(const double *betas, int steps, double *alpha_bar)
{
    double prod = 1;
    for (int i = 0; i < steps; i++) {
        prod *= (double)(1.0f - (float)betas[i]);
        alpha_bar[i] = (double)(float)prod;
    }
}

static const char *const betas_names[] = {"linear", "scaled_linear", "squaredcos_cap_v2"};
static const char *const predict_names[] = {"epsilon", "v_prediction", "sample"};

int sampler_betas_parse(const char *name, SamplerBetas *out)
{
    for (int i = 0; i < 3; i++)
        if (strcmp(name, betas_names[i]) == 0 || (i == SAMPLER_BETAS_COSINE && strcmp(name, "cosine") == 0)) {
            *out = (SamplerBetas)i;
            return 0;
        }
    return err_set(ERR_RANGE, "beta_schedule \"%s\": expected linear, scaled_linear or squaredcos_cap_v2", name);
}

int sampler_predict_parse(const char *name, SamplerPredict *out)
{
    for (int i = 0; i < 3; i++)
        if (strcmp(name, predict_names[i]) == 0 || (i == SAMPLER_PREDICT_V && strcmp(name, "v") == 0)) {
            *out = (SamplerPredict)i;
            return 0;
        }
    return err_set(ERR_RANGE, "prediction_type \"%s\": expected epsilon, v_prediction or sample", name);
}

const char *sampler_betas_name(SamplerBetas kind) { return betas_names[kind]; }
const char *sampler_predict_name(SamplerPredict p) { return predict_names[p]; }

double sampler_sigma_of(double alpha_bar) { return sqrt((1 - alpha_bar) / alpha_bar); }
double sampler_snr(double alpha_bar) { return alpha_bar / (1 - alpha_bar); }

double sampler_min_snr_weight(double alpha_bar, double gamma, SamplerPredict p)
{
    double snr = sampler_snr(alpha_bar);
    double low = snr < gamma ? snr : gamma;
    if (p == SAMPLER_PREDICT_EPSILON)
        return snr > 0 ? low / snr : 1;
    return p == SAMPLER_PREDICT_V ? low / (snr + 1) : low;
}

/* One rounding per element: the sum is done in double. */
static void combine(float *out, double a, const float *x, double b, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(a * (double)x[i] + b * (double)y[i]);
}

void sampler_add_noise(float *out, const float *x0, const float *noise, double alpha_bar, size_t n)
{
    combine(out, sqrt(alpha_bar), x0, sqrt(1 - alpha_bar), noise, n);
}

void sampler_velocity(float *out, const float *x0, const float *noise, double alpha_bar, size_t n)
{
    combine(out, -sqrt(1 - alpha_bar), x0, sqrt(alpha_bar), noise, n);
}

void sampler_guide(float *out, const float *uncond, const float *cond, double scale, size_t n)
{
    combine(out, 1 - scale, uncond, scale, cond, n);
}

static double deviation(const float *x, size_t n)
{
    double mean = 0, sum = 0;
    for (size_t i = 0; i < n; i++)
        mean += (double)x[i];
    mean /= (double)n;
    for (size_t i = 0; i < n; i++)
        sum += ((double)x[i] - mean) * ((double)x[i] - mean);
    return n > 1 ? sqrt(sum / (double)(n - 1)) : 0;
}

void sampler_guide_rescale(float *guided, const float *cond, double r, size_t n)
{
    double from = deviation(guided, n);
    if (!(from > 0))
        return;
    double factor = r * deviation(cond, n) / from + (1 - r);
    for (size_t i = 0; i < n; i++)
        guided[i] = (float)(factor * (double)guided[i]);
}

int sampler_first_step(int steps, double strength)
{
    int run = (int)((double)steps * strength);
    if (run > steps)
        run = steps;
    return run > 0 ? steps - run : steps;
}
