/* Solvers: from model outputs to the next latent, equal to the diffusers schedulers of the same name.
 *
 *     sampler_create(&s, &conf, max_n);
 *     for (k) x[k] *= sampler_init_noise_sigma(s);
 *     for (i = sampler_begin(s); i < sampler_count(s); i++) {
 *         out = model(sampler_scale_input(s, i) * x, sampler_timestep(s, i));
 *         sampler_step(s, i, x, out, sampler_needs_noise(s, i) ? noise : NULL, n);
 *     }
 * Everything is element-wise: an item's latent does not depend on the others in x. `i` is the index of the model call,
 * which is not the number of the denoising step for PNDM (steps + 1 calls) and Heun (2 steps - 1 calls). */
#ifndef SAMPLER_SOLVER_H
#define SAMPLER_SOLVER_H

#include "sampler/schedule.h"

/* DDIM arXiv:2010.02502; PNDM/PLMS arXiv:2202.09778 (without the Runge-Kutta start: skip_prk_steps); Euler, Euler ancestral
 * and Heun arXiv:2206.00364 in k-diffusion's form; DPM++ 2M arXiv:2211.01095 (midpoint; order 1, 2); DDPM is DDIM with
 * eta 1 in all but its variance, so it is not offered for sampling. */
typedef enum { SAMPLER_DDIM, SAMPLER_PNDM, SAMPLER_EULER, SAMPLER_EULER_A, SAMPLER_DPMPP_2M, SAMPLER_HEUN, SAMPLER_COUNT } SamplerKind;

/* How the timesteps of inference are laid over those of training (diffusers timestep_spacing; arXiv:2305.08891, table 2). */
typedef enum { SAMPLER_LEADING, SAMPLER_TRAILING, SAMPLER_LINSPACE } SamplerSpacing;

/* How sigmas are laid between those of the first and last timestep: NORMAL takes the timesteps' own. */
typedef enum { SAMPLER_SIGMAS_NORMAL, SAMPLER_SIGMAS_KARRAS, SAMPLER_SIGMAS_EXPONENTIAL } SamplerSigmas;

typedef struct {
    SamplerKind kind;
    int steps;              /* denoising steps, 1..train_steps */
    int train_steps;        /* 1000 */
    SamplerBetas betas;
    double beta_start, beta_end;
    int zero_snr;           /* rescale_betas_zero_snr */
    SamplerPredict predict;
    SamplerSpacing spacing;
    SamplerSigmas sigmas;   /* Euler, DPM++ 2M, Heun */
    int steps_offset;       /* added to timesteps with LEADING */
    int set_alpha_to_one;   /* DDIM, PNDM: alpha_bar after the last step is 1 (else alpha_bar[0]) */
    int clip_sample;        /* DDIM: predicted x0 clipped to +-clip_range */
    double clip_range;
    double eta;             /* DDIM: 0 deterministic .. 1 */
    int order;              /* DPM++: 1 or 2 */
    int lower_order_final;  /* DPM++: first order at the last step when steps < 15 */
    int euler_at_final;     /* DPM++: first order at the last step always */
    int final_sigma_min;    /* final_sigmas_type sigma_min instead of zero */
} SamplerConf;

typedef struct Sampler Sampler;

/* Stable Diffusion 1.x defaults: scaled_linear 0.00085..0.012, 1000, epsilon, leading with offset 1, DDIM with 50 steps. */
void sampler_conf_default(SamplerConf *conf);
/* Reads a diffusers scheduler_config.json over the class's own defaults. Sets everything but `steps` and `eta`, which keep
 * their values. ERR_NOTFOUND, ERR_FORMAT, ERR_UNSUPPORTED (naming class or key). */
int sampler_conf_from_json(SamplerConf *conf, const char *path);
/* Changes the solver by name: ddim, pndm (plms), euler, euler_a, dpmpp_2m, heun; a "_karras", "_exponential", "_trailing",
 * "_leading" or "_linspace" suffix is applied as a spacing. Also A1111/k-diffusion spellings: "DPM++ 2M Karras", "Euler a".
 * ERR_RANGE lists the known names. */
int sampler_conf_set_kind(SamplerConf *conf, const char *name);
/* normal: the config's own spacing with plain sigmas; karras, exponential; leading, trailing, linspace. */
int sampler_conf_set_spacing(SamplerConf *conf, const char *name);
const char *sampler_kind_name(SamplerKind kind);       /* "dpmpp_2m" */
const char *sampler_kind_a1111_name(SamplerKind kind); /* "DPM++ 2M" */
const char *sampler_spacing_name(const SamplerConf *conf); /* "karras", "trailing", ... for records */
/* ERR_RANGE / ERR_UNSUPPORTED with the setting's name. */
int sampler_conf_check(const SamplerConf *conf);

/* max_n: most elements ever given to sampler_step; history is allocated here. */
int sampler_create(Sampler **out, const SamplerConf *conf, size_t max_n);
void sampler_destroy(Sampler *s);
/* Forgets history: call before each new batch. */
void sampler_reset(Sampler *s);

int sampler_count(const Sampler *s);               /* model calls of a full run */
/* First call of an img2img run at this strength (0 for strength 1); = count when strength gives no step. */
int sampler_begin_at(const Sampler *s, double strength);
double sampler_timestep(const Sampler *s, int i);  /* what the model is given; fractional with Karras on Euler */
double sampler_sigma(const Sampler *s, int i);     /* noise level before call i, 0 <= i <= count; sqrt((1-ab)/ab) */
double sampler_init_noise_sigma(const Sampler *s); /* factor on unit noise for a run from call 0 */
double sampler_scale_input(const Sampler *s, int i);
int sampler_needs_noise(const Sampler *s, int i);  /* whether step i reads unit noise (draw nothing otherwise) */
/* x[n] after call i, in place. model_out[n]; noise[n] or NULL where not needed. Calls must come in order from the first.
 * ERR_RANGE when out of order or n > max_n. */
int sampler_step(Sampler *s, int i, float *x, const float *model_out, const float *noise, size_t n);
/* x <- what a run starting at call i expects: x0 noised to that level (img2img; scheduler.add_noise). */
int sampler_noise_to(const Sampler *s, int i, float *x, const float *x0, const float *noise, size_t n);
/* The solver's own estimate of x0 after the last sampler_step (for previews), n floats; NULL before any step. Borrowed. */
const float *sampler_denoised(const Sampler *s);

#endif
