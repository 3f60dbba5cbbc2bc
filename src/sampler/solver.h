/* Solvers: from model outputs to the next latent, equal to the diffusers schedulers of the same name.
 *
 *     sampler_create(&s, &conf, max_n);
 *     for (k) x[k] *= sampler_init_noise_sigma(s);
 *     for (i = 0; i < sampler_count(s); i++) {
 *         out = model(sampler_scale_input(s, i) * x, sampler_timestep(s, i));
 *         sampler_step(s, i, x, out, sampler_needs_noise(s, i) ? noise : NULL, n);
 *     }
 * Everything is element-wise: an item's latent does not depend on the others in x. `i` is the number of the model call,
 * which is not the number of the denoising step for PNDM (steps + 1 calls, steps + 9 with its Runge-Kutta start) and Heun
 * (2 steps - 1). Coefficients are computed in double from tables rounded to float as diffusers has them. */
#ifndef SAMPLER_SOLVER_H
#define SAMPLER_SOLVER_H

#include "sampler/conf.h"

typedef struct Sampler Sampler;

/* max_n: most elements ever given to sampler_step; history is allocated here. ERR_RANGE, ERR_UNSUPPORTED, ERR_NOMEM. */
int sampler_create(Sampler **out, const SamplerConf *conf, size_t max_n);
void sampler_destroy(Sampler *s); /* NULL is fine */
/* Forgets history, so that the next sampler_step may be at any call index. Call before each new batch. */
void sampler_reset(Sampler *s);

int sampler_count(const Sampler *s);               /* model calls of a full run */
/* First call of an img2img run (diffusers get_timesteps): 0 for strength 1, count when strength gives no step. PNDM differs
 * from diffusers below strength 1: there it mistakes the first calls for its start-up pair and ends a level too noisy. */
int sampler_begin_at(const Sampler *s, double strength);
double sampler_timestep(const Sampler *s, int i);  /* for the model; fractional for Euler and Heun with linspace, Karras */
double sampler_sigma(const Sampler *s, int i);     /* sqrt((1-ab)/ab) before call i, 0 <= i <= count */
double sampler_init_noise_sigma(const Sampler *s); /* factor on unit noise for a run from call 0 */
double sampler_scale_input(const Sampler *s, int i);
int sampler_needs_noise(const Sampler *s, int i);  /* whether step i reads unit noise with a weight that is not 0 */
/* x[n] after call i, in place. model_out[n]; noise[n], may be NULL where not needed. Calls go up by one after a reset.
 * ERR_RANGE when out of order, n > max_n, or n changes within a run. */
int sampler_step(Sampler *s, int i, float *x, const float *model_out, const float *noise, size_t n);
/* x[n] = x0[n] noised to the level before call i (scheduler.add_noise; img2img, inpainting). i == count: x0. May alias. */
int sampler_noise_to(const Sampler *s, int i, float *x, const float *x0, const float *noise, size_t n);
/* Estimate of x0 from the last sampler_step's model output, n floats, for previews; NULL before any step. Borrowed. */
const float *sampler_denoised(const Sampler *s);

#endif
