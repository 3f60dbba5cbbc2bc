/* How the solvers of this room are written. Internal.
 *
 * Every solver is linear in what it has at a model call: the sample x, the model's output m, the estimate d of x0 (clipped where asked),
 * one saved sample, the noise, and a history of kept values. A family of solvers is a function that gives the coefficients of one call
 * (SamplerRow) from the tables alone; sampler_step applies them. Two scales of latents:
 *     VE  x = x0 + sigma eps                       (Euler, Heun, LMS, ...: the model sees x / sqrt(1 + sigma^2))
 *     VP  x = sqrt(ab) x0 + sqrt(1 - ab) eps       (DDIM, DPM++ of diffusers, ...),  ab = 1 / (1 + sigma^2)
 * Formulas are written once with (alpha, sigma_t) = (1, sigma) or (sqrt(ab), sqrt(1 - ab)). */
#ifndef SAMPLER_SOLVER_IMPL_H
#define SAMPLER_SOLVER_IMPL_H

#include "sampler/solver.h"

enum { SAMPLER_HISTORY = 6, SAMPLER_EXTRA_CALLS = 9 };

/* Weights of a new value; h[0] is the newest kept value, this call's own if it keeps one. */
typedef struct {
    double x, m, d, saved, noise, h[SAMPLER_HISTORY];
} SamplerMix;

typedef struct {
    double d_x, d_m;                /* d = d_x x + d_m m, then clipped to +-clip */
    double clip;
    int keeps;                      /* pushes keep_x x + keep_m m + keep_d d on the history */
    int drops;                      /* newest kept values forgotten afterwards */
    double keep_x, keep_m, keep_d;
    int saves;                      /* saved = save(...), evaluated before x changes */
    SamplerMix save, next;
} SamplerRow;

typedef struct {
    int step, part;                 /* part 0: the first model call of a step */
    double t, sigma;                /* of the model call */
    double from, prev;              /* timesteps between which an index-based solver moves; prev -1: to the end */
} SamplerCall;

typedef struct SamplerTable {
    int n;
    double *bar, *sigma, *log_sigma; /* [n], of the training timesteps */
} SamplerTable;

typedef void (*SamplerRowFn)(const Sampler *s, int i, SamplerRow *r);

struct Sampler {
    SamplerConf c;                  /* eta, order and schedule resolved */
    SamplerTable table;
    int ve;                         /* scale of the latents */
    int steps;                      /* may differ from c.steps: schedules that drop or add levels */
    double *level;                  /* [steps + 1] sigmas between steps */
    int *order_of;                  /* [steps], DPM++ 2S of diffusers; else NULL */
    int count;
    SamplerCall *call;              /* [count] */
    double first_sigma;             /* init_noise_sigma */
    double source_sigma;            /* level to which a source is noised for call `start` */
    double range[2];                /* of the Brownian path */
    int start;                      /* first call for c.strength */
    double final_bar;               /* alpha_bar after the last step of index-based solvers */
    SamplerRowFn row;
    size_t max_n, n;
    int begin, next;                /* first call of the current run, the one expected now; -1 before a run */
    int nhist;                      /* kept values allocated */
    float *hist[SAMPLER_HISTORY];
    float *saved, *denoised, *seen; /* seen: what the model saw where that is not x (inpainting) */
    SamplerInpaint paint;
};

/* table.c. Allocates. ERR_RANGE, ERR_NOMEM. */
int sampler_table_init(SamplerTable *t, const SamplerConf *c);
void sampler_table_deinit(SamplerTable *t);
/* sqrt((1-ab)/ab) at a fractional timestep: linear in sigma (diffusers), or linear in its logarithm (k-diffusion). */
double sampler_table_sigma_linear(const SamplerTable *t, double step);
double sampler_table_sigma_log(const SamplerTable *t, double step);
/* Fractional timestep of a sigma, log-linear (k-diffusion's sigma_to_t), clamped to the table. */
double sampler_table_t(const SamplerTable *t, double sigma);
/* Index of the nearest log sigma (ComfyUI's timestep()). */
int sampler_table_nearest(const SamplerTable *t, double sigma);

/* sigmas.c: a list of decreasing sigmas for `steps` steps, the last one the end (mostly 0), as COMFY and A1111 make it for c->sigmas.
 * out: room for sampler_sigmas_room. Returns the number of steps (one less than values), which may differ from `steps`. */
int sampler_sigmas_room(const SamplerConf *c, int steps);
int sampler_sigmas(const SamplerConf *c, const SamplerTable *t, int steps, double *out);
/* One value of the closed forms between hi and lo at place i of n: karras, exponential, polyexponential, beta. */
double sampler_sigma_between(const SamplerConf *c, double hi, double lo, int i, int n);
/* Inverse of the regularised incomplete beta function (scipy.stats.beta.ppf). p in 0..1. */
double sampler_beta_ppf(double p, double a, double b);

/* layout*.c: levels and calls of s from s->c and s->table; allocates them. ERR_NOMEM, ERR_RANGE. */
int sampler_layout(Sampler *s);
int sampler_layout_index(Sampler *s);  /* ATELIER, DIFFUSERS: DDIM, PNDM, DDPM, LCM, TCD */
int sampler_layout_sigma(Sampler *s);  /* the same rules, all others */
int sampler_layout_list(Sampler *s);   /* COMFY, A1111: a list of sigmas */
int sampler_layout_ldm(Sampler *s);    /* A1111: DDIM, PLMS, UniPC by timesteps */
int sampler_layout_alloc(Sampler *s, int steps, int calls);
int sampler_is_index_based(const SamplerConf *c);
/* Timesteps of a class of diffusers, descending, c->steps of them. */
void sampler_base_timesteps(const SamplerConf *c, double *t);
/* Calls of a list of levels with timesteps t[steps] (NULL: by the rules): one per step, or two where the solver has them. */
void sampler_layout_calls(Sampler *s, const double *t);

/* solver.c: helpers of the families. */
double sampler_alpha(const Sampler *s, double sigma);   /* 1 or sqrt(ab) */
double sampler_sigma_t(const Sampler *s, double sigma); /* sigma or sqrt(1 - ab) */
/* Row that predicts x0 at call i and changes nothing. */
void sampler_row_init(const Sampler *s, int i, SamplerRow *r);
/* Weights of x and m (added to mix, times w) that make eps at call i; of x0 the same. */
void sampler_eps_weights(const Sampler *s, int i, double *x, double *m);
/* Sigma down to which a step goes, and the noise added after it (k-diffusion's get_ancestral_step). */
void sampler_ancestral(double from, double to, double eta, double *down, double *up);
/* Noise levels of churn at step k: sigma_hat. */
double sampler_hat(const Sampler *s, int k);
/* Step of the run's first call. */
int sampler_first_step_of_run(const Sampler *s);

/* Families. */
void sampler_row_euler(const Sampler *s, int i, SamplerRow *r);    /* solver_euler.c: euler, euler_a; by sigma: ddim, ddpm */
void sampler_row_lms(const Sampler *s, int i, SamplerRow *r);
void sampler_row_ipndm(const Sampler *s, int i, SamplerRow *r);
void sampler_row_deis_tab(const Sampler *s, int i, SamplerRow *r); /* solver_deis.c */
void sampler_row_deis(const Sampler *s, int i, SamplerRow *r);
void sampler_row_heun(const Sampler *s, int i, SamplerRow *r);     /* solver_second.c */
void sampler_row_dpm2(const Sampler *s, int i, SamplerRow *r);
void sampler_row_2s_a(const Sampler *s, int i, SamplerRow *r);
void sampler_row_sde(const Sampler *s, int i, SamplerRow *r);
void sampler_row_dpm(const Sampler *s, int i, SamplerRow *r);      /* solver_dpm.c: multistep */
void sampler_row_dpm_single(const Sampler *s, int i, SamplerRow *r);
void sampler_row_unipc(const Sampler *s, int i, SamplerRow *r);    /* solver_unipc.c */
void sampler_row_ddim(const Sampler *s, int i, SamplerRow *r);     /* solver_ddim.c, by timestep */
void sampler_row_ddpm(const Sampler *s, int i, SamplerRow *r);
void sampler_row_lcm(const Sampler *s, int i, SamplerRow *r);
void sampler_row_tcd(const Sampler *s, int i, SamplerRow *r);
void sampler_row_pndm(const Sampler *s, int i, SamplerRow *r);     /* solver_pndm.c */
void sampler_row_plms(const Sampler *s, int i, SamplerRow *r);     /* A1111's */

#endif
