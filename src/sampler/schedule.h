/* Noise schedules: pure functions on host doubles. T = number of training timesteps, usually 1000.
 * alpha_bar[t] = prod_{s<=t} (1 - beta[s]);  sigma = sqrt((1 - alpha_bar)/alpha_bar);  snr = alpha_bar/(1 - alpha_bar).
 * A noisy latent is x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise  (DDPM, arXiv:2006.11239, eq. 4). */
#ifndef SAMPLER_SCHEDULE_H
#define SAMPLER_SCHEDULE_H

#include <stddef.h>

#include "base/error.h"

enum { SAMPLER_MAX_TRAIN_STEPS = 10000 };

/* LINEAR: linspace(start, end). SCALED_LINEAR: linspace(sqrt start, sqrt end)^2 (Stable Diffusion).
 * COSINE: squaredcos_cap_v2 (arXiv:2102.09672, eq. 17; betas capped at 0.999; start and end unused). */
typedef enum { SAMPLER_BETAS_LINEAR, SAMPLER_BETAS_SCALED_LINEAR, SAMPLER_BETAS_COSINE } SamplerBetas;

typedef enum { SAMPLER_PREDICT_EPSILON, SAMPLER_PREDICT_V, SAMPLER_PREDICT_SAMPLE } SamplerPredict;

/* betas[steps]. zero_snr: rescaled so that the last alpha_bar is 0 (arXiv:2305.08891, algorithm 1). ERR_RANGE. */
int sampler_betas(SamplerBetas kind, double start, double end, int steps, int zero_snr, double *betas);
void sampler_alpha_bar(const double *betas, int steps, double *alpha_bar);
/* Names as in diffusers configs: linear, scaled_linear, squaredcos_cap_v2 (or cosine); epsilon, v_prediction, sample.
 * ERR_RANGE naming what is known. */
int sampler_betas_parse(const char *name, SamplerBetas *out);
int sampler_predict_parse(const char *name, SamplerPredict *out);
const char *sampler_betas_name(SamplerBetas kind);
const char *sampler_predict_name(SamplerPredict p);

double sampler_sigma_of(double alpha_bar);
double sampler_snr(double alpha_bar); /* INFINITY at alpha_bar 1 */
/* min-SNR loss weight (arXiv:2303.09556): min(snr,g)/snr for epsilon, min(snr,g)/(snr+1) for v, min(snr,g) for sample.
 * At snr 0, epsilon: 1. */
double sampler_min_snr_weight(double alpha_bar, double gamma, SamplerPredict p);

/* out = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise; out may alias either. */
void sampler_add_noise(float *out, const float *x0, const float *noise, double alpha_bar, size_t n);
/* out = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0 (arXiv:2202.00512, appendix D). */
void sampler_velocity(float *out, const float *x0, const float *noise, double alpha_bar, size_t n);

/* out = uncond + scale (cond - uncond)  (arXiv:2207.12598). out may alias either. */
void sampler_guide(float *out, const float *uncond, const float *cond, double scale, size_t n);
/* guided <- r * guided * std(cond)/std(guided) + (1 - r) guided, standard deviations (n - 1) over one item
 * (arXiv:2305.08891, eq. 15-16). Call once per item. */
void sampler_guide_rescale(float *guided, const float *cond, double r, size_t n);

/* First step of img2img: steps - min(int(steps * strength), steps), as in diffusers. strength in 0..1 is the caller's check. */
int sampler_first_step(int steps, double strength);

#endif
