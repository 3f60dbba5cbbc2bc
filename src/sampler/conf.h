/* Settings of a solver: from a model's scheduler_config.json, changed by name. */
#ifndef SAMPLER_CONF_H
#define SAMPLER_CONF_H

#include "sampler/schedule.h"

/* DDIM arXiv:2010.02502; PNDM arXiv:2202.09778; Euler, Heun and their ancestral forms arXiv:2206.00364 as in k-diffusion;
 * DPM2 arXiv:2206.00927; DPM++ arXiv:2211.01095; UniPC arXiv:2302.04867; DEIS arXiv:2204.13902; LCM arXiv:2310.04378;
 * TCD arXiv:2402.19159; DDPM arXiv:2006.11239. */
typedef enum {
    SAMPLER_DDIM,
    SAMPLER_PNDM,
    SAMPLER_EULER,
    SAMPLER_EULER_A,
    SAMPLER_DPMPP_2M,
    SAMPLER_DPMPP_2M_SDE,
    SAMPLER_HEUN,
    SAMPLER_DPM2,
    SAMPLER_DPM2_A,
    SAMPLER_LMS,
    SAMPLER_DPMPP_2S,
    SAMPLER_DPMPP_2S_A,
    SAMPLER_DPMPP_SDE,
    SAMPLER_DPMPP_3M,
    SAMPLER_DPMPP_3M_SDE,
    SAMPLER_DPM_2M,       /* DPM-Solver (not ++), multistep */
    SAMPLER_UNIPC,
    SAMPLER_DEIS,
    SAMPLER_LCM,
    SAMPLER_TCD,
    SAMPLER_DDPM,
    SAMPLER_KINDS /* a scheduler that is not available here: choose one with sampler_conf_set_kind */
} SamplerKind;

/* Whose details hold: timesteps, sigma table, first noise, start of img2img, inpainting, formulas where they differ.
 * DIFFUSERS: the schedulers of that name, configured by scheduler_config.json. ATELIER: the same, but for what is plainly a mistake
 * there. COMFY, A1111: k-diffusion's functions over a list of sigmas as these two programs make it. */
typedef enum { SAMPLER_RULES_ATELIER, SAMPLER_RULES_DIFFUSERS, SAMPLER_RULES_COMFY, SAMPLER_RULES_A1111 } SamplerRules;

/* How the timesteps of inference are laid over those of training (diffusers timestep_spacing; arXiv:2305.08891, table 2). */
typedef enum { SAMPLER_LEADING, SAMPLER_TRAILING, SAMPLER_LINSPACE } SamplerSpacing;

/* NORMAL: by `spacing` (DIFFUSERS), or timesteps evenly from the last to the first (COMFY, A1111). AUTOMATIC: NORMAL, for A1111 the
 * schedule that its program gives the sampler. Formulas and the two programs' variants: sampler/sigmas.h. */
typedef enum {
    SAMPLER_SIGMAS_AUTOMATIC,
    SAMPLER_SIGMAS_NORMAL,
    SAMPLER_SIGMAS_KARRAS,
    SAMPLER_SIGMAS_EXPONENTIAL,
    SAMPLER_SIGMAS_POLYEXPONENTIAL,
    SAMPLER_SIGMAS_SGM_UNIFORM,
    SAMPLER_SIGMAS_SIMPLE,
    SAMPLER_SIGMAS_DDIM_UNIFORM,
    SAMPLER_SIGMAS_BETA,
    SAMPLER_SIGMAS_KL_OPTIMAL,
    SAMPLER_SIGMAS_AYS,      /* Align Your Steps (arXiv:2404.14507), table of SD 1.5 */
    SAMPLER_SIGMAS_AYS_SDXL,
    SAMPLER_SIGMAS_LU,       /* lambdas of DPM-Solver's authors, diffusers' use_lu_lambdas */
    SAMPLER_SIGMAS_COUNT
} SamplerSigmas;

typedef struct {
    SamplerKind kind;
    SamplerRules rules;
    int steps;             /* denoising steps, 1..train_steps */
    double strength;       /* img2img: share of the way from noise that is run, 0..1; 1 also for text to image (A1111's img2img never
                            * gets beyond 0.999: give that) */
    int train_steps;
    SamplerBetas betas;
    double beta_start, beta_end;
    int zero_snr;          /* rescale_betas_zero_snr */
    SamplerPredict predict;
    SamplerSpacing spacing;
    SamplerSigmas sigmas;
    double rho;            /* KARRAS (7), POLYEXPONENTIAL (1); 0: these defaults */
    double sigma_min, sigma_max; /* ends of the sigma schedules; 0: those of the model's table */
    int steps_offset;      /* added to timesteps with LEADING */
    int set_alpha_to_one;  /* DDIM, PNDM, LCM, TCD: alpha_bar after the last step is 1, else alpha_bar[0] */
    int clip_sample;       /* DDIM, DDPM, Heun, LCM, TCD: predicted x0 clipped to +-clip_range */
    double clip_range;
    double eta;            /* share of fresh noise, 0..1; negative: the sampler's own (DDIM 0, TCD 0.3, others 1) */
    double s_churn, s_tmin, s_tmax, s_noise; /* Euler, Heun, DPM2 (arXiv:2206.00364, algorithm 2); s_tmax 0: none; s_noise 1: all */
    int skip_prk;          /* PNDM: no Runge-Kutta start (PLMS, as Stable Diffusion uses it) */
    int order;             /* DPM++ and UniPC: 1..3; LMS: 1..4; 0: the sampler's own */
    int heun_correction;   /* DPM++: solver_type heun instead of midpoint */
    int unipc_bh;          /* UniPC: 1: B(h) = h, 2: expm1(h), 0: by the rules (ATELIER, DIFFUSERS: 2, others 1) */
    int lower_order_final; /* DPM++, DEIS, UniPC: lower order at the last steps when steps < 15 (UniPC: always) */
    int euler_at_final;    /* DPM++: first order at the last step always */
    int final_sigma_min;   /* final_sigmas_type sigma_min instead of zero */
    int original_steps;    /* LCM, TCD: original_inference_steps */
    int sde_gpu;           /* ComfyUI's *_gpu samplers: the Brownian path is drawn on the GPU */
    int named, spaced;     /* `sigmas`, `spacing` were set by name, not by the file: they hold under all rules (internal) */
    unsigned given;        /* fields the file or the caller set; others follow the solver's class (internal) */
    char class_name[64];   /* _class_name of the file, for messages */
} SamplerConf;

/* Stable Diffusion 1.x: DDIM, 50 steps, scaled_linear 0.00085..0.012 over 1000, epsilon, leading with offset 1. */
void sampler_conf_default(SamplerConf *conf);
/* Reads a diffusers scheduler_config.json over its class's own defaults. `steps` is 50 and `eta` the sampler's own. Unknown keys that
 * change nothing are passed over; settings that would change the result and are not available are ERR_UNSUPPORTED.
 * ERR_NOTFOUND, ERR_FORMAT with file and key. */
int sampler_conf_from_json(SamplerConf *conf, const char *path);
/* The same from memory; `name` is for messages. */
int sampler_conf_from_text(SamplerConf *conf, const char *text, const char *name);
/* Changes the solver as diffusers' from_config does: what the file did not set takes the new class's default.
 * Names: ours (sampler_kind_name), A1111's ("DPM++ 2M Karras"), ComfyUI's (dpmpp_2m_sde_gpu, uni_pc_bh2), diffusers' classes, each
 * perhaps followed by a schedule. ERR_RANGE lists what is known. */
int sampler_conf_set_kind(SamplerConf *conf, const char *name);
/* A schedule by our name, A1111's ("SGM Uniform") or ComfyUI's, or leading, trailing, linspace. */
int sampler_conf_set_spacing(SamplerConf *conf, const char *name);
/* ERR_RANGE or ERR_UNSUPPORTED naming the setting. sampler_create calls it. */
int sampler_conf_check(const SamplerConf *conf);
/* conf->eta, or the sampler's own where that is negative. */
double sampler_conf_eta(const SamplerConf *conf);
/* conf->sigmas with AUTOMATIC resolved. */
SamplerSigmas sampler_conf_sigmas(const SamplerConf *conf);

const char *sampler_kind_name(SamplerKind kind);           /* "dpmpp_2m" */
const char *sampler_kind_a1111_name(SamplerKind kind);     /* "DPM++ 2M" */
const char *sampler_spacing_name(const SamplerConf *conf); /* "karras", "sgm_uniform", ..., or the timestep spacing */
const char *sampler_spacing_a1111_name(const SamplerConf *conf); /* "Karras", "SGM Uniform", ..., for image metadata */

#endif
