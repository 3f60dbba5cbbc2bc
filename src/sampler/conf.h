/* Settings of a solver: from a model's scheduler_config.json, changed by name. */
#ifndef SAMPLER_CONF_H
#define SAMPLER_CONF_H

#include "sampler/schedule.h"

/* DDIM arXiv:2010.02502; PNDM arXiv:2202.09778; Euler, Euler ancestral and Heun arXiv:2206.00364 in k-diffusion's form;
 * DPM++ 2M and its SDE arXiv:2211.01095. */
typedef enum {
    SAMPLER_DDIM,
    SAMPLER_PNDM,
    SAMPLER_EULER,
    SAMPLER_EULER_A,
    SAMPLER_DPMPP_2M,
    SAMPLER_DPMPP_2M_SDE,
    SAMPLER_HEUN,
    SAMPLER_KINDS /* a scheduler that is not available here: choose one with sampler_conf_set_kind */
} SamplerKind;

/* How the timesteps of inference are laid over those of training (diffusers timestep_spacing; arXiv:2305.08891, table 2). */
typedef enum { SAMPLER_LEADING, SAMPLER_TRAILING, SAMPLER_LINSPACE } SamplerSpacing;

/* NORMAL: the sigmas of the timesteps. KARRAS (rho 7), EXPONENTIAL: between the first and last of those. */
typedef enum { SAMPLER_SIGMAS_NORMAL, SAMPLER_SIGMAS_KARRAS, SAMPLER_SIGMAS_EXPONENTIAL } SamplerSigmas;

typedef struct {
    SamplerKind kind;
    int steps;             /* denoising steps, 1..train_steps */
    int train_steps;
    SamplerBetas betas;
    double beta_start, beta_end;
    int zero_snr;          /* rescale_betas_zero_snr: DDIM, Euler, Euler a, DPM++ */
    SamplerPredict predict;
    SamplerSpacing spacing;
    SamplerSigmas sigmas;  /* Euler, DPM++, Heun */
    int steps_offset;      /* added to timesteps with LEADING */
    int set_alpha_to_one;  /* DDIM, PNDM: alpha_bar after the last step is 1, else alpha_bar[0] */
    int clip_sample;       /* DDIM, Heun: predicted x0 clipped to +-clip_range */
    double clip_range;
    double eta;            /* DDIM: 0 deterministic .. 1 */
    int skip_prk;          /* PNDM: no Runge-Kutta start (PLMS, as Stable Diffusion uses it) */
    int order;             /* DPM++: 1 or 2 */
    int heun_correction;   /* DPM++: solver_type heun instead of midpoint */
    int lower_order_final; /* DPM++: first order at the last step when steps < 15 */
    int euler_at_final;    /* DPM++: first order at the last step always */
    int final_sigma_min;   /* Euler, DPM++: final_sigmas_type sigma_min instead of zero */
    unsigned given;        /* fields the file or the caller set; others follow the solver's class (internal) */
    char class_name[64];   /* _class_name of the file, for messages */
} SamplerConf;

/* Stable Diffusion 1.x: DDIM, 50 steps, scaled_linear 0.00085..0.012 over 1000, epsilon, leading with offset 1. */
void sampler_conf_default(SamplerConf *conf);
/* Reads a diffusers scheduler_config.json over its class's own defaults. `steps` is 50 and `eta` 0. Unknown keys that
 * change nothing are passed over; settings that would change the result and are not available are ERR_UNSUPPORTED.
 * ERR_NOTFOUND, ERR_FORMAT with file and key. */
int sampler_conf_from_json(SamplerConf *conf, const char *path);
/* The same from memory; `name` is for messages. */
int sampler_conf_from_text(SamplerConf *conf, const char *text, const char *name);
/* Changes the solver as diffusers' from_config does: what the file did not set takes the new class's default.
 * Names: ddim, pndm (plms), euler, euler_a, dpmpp_2m, dpmpp_2m_sde, heun, with a suffix _karras, _exponential, _leading,
 * _trailing or _linspace; A1111 spellings such as "DPM++ 2M Karras", "Euler a". ERR_RANGE lists what is known. */
int sampler_conf_set_kind(SamplerConf *conf, const char *name);
/* normal (no Karras or exponential), karras, exponential, leading, trailing, linspace. */
int sampler_conf_set_spacing(SamplerConf *conf, const char *name);
/* ERR_RANGE or ERR_UNSUPPORTED naming the setting. sampler_create calls it. */
int sampler_conf_check(const SamplerConf *conf);

const char *sampler_kind_name(SamplerKind kind);           /* "dpmpp_2m" */
const char *sampler_kind_a1111_name(SamplerKind kind);     /* "DPM++ 2M" */
const char *sampler_spacing_name(const SamplerConf *conf); /* "karras", "exponential", or the timestep spacing */

#endif
