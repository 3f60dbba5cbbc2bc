/* Solvers: from model outputs to the next latent, equal to the diffusers schedulers or k-diffusion functions of the same name.
 *
 *     sampler_create(&s, &conf, max_n);
 *     sampler_start(s, x, noise, source, n);               source NULL: text to image
 *     for (i = sampler_begin(s); i < sampler_count(s); i++) {
 *         if (sampler_needs_churn(s, i))
 *             sampler_churn(s, i, x, fresh noise, n);
 *         sampler_input(s, i, in, x, n);
 *         out = model(in, sampler_timestep(s, i));
 *         sampler_step(s, i, x, out, sampler_needs_noise(s, i) ? noise : NULL, n);
 *     }
 * Everything is element-wise: an item's latent does not depend on the others in x, nor on the order of elements. `i` is the number of
 * the model call, which is not the number of the denoising step for solvers with two calls per step (Heun, DPM2, DPM++ 2S and SDE,
 * PNDM's start). Coefficients are computed in double from tables rounded to float as the reference has them. */
#ifndef SAMPLER_SOLVER_H
#define SAMPLER_SOLVER_H

#include "sampler/conf.h"

typedef struct Sampler Sampler;

/* What keeps a part of a picture: all [n], borrowed until sampler_reset. */
typedef struct {
    const float *repaint; /* 1: new, 0: as the source, values between blend */
    const float *source;  /* latents of the source, as the UNet scales them */
    const float *noise;   /* the unit noise that sampler_start was given */
} SamplerInpaint;

/* max_n: most elements ever given to sampler_step; history is allocated here. ERR_RANGE, ERR_UNSUPPORTED, ERR_NOMEM. */
int sampler_create(Sampler **out, const SamplerConf *conf, size_t max_n);
void sampler_destroy(Sampler *s); /* NULL is fine */
/* Forgets history and inpainting. Call before each new batch. */
void sampler_reset(Sampler *s);

int sampler_count(const Sampler *s);               /* model calls of a full run */
/* First call of a run with conf.strength: 0 at strength 1, count when the strength gives no step. */
int sampler_begin(const Sampler *s);
double sampler_timestep(const Sampler *s, int i);  /* for the model; fractional where the reference's is */
double sampler_sigma(const Sampler *s, int i);     /* sqrt((1-ab)/ab) at call i, 0 <= i <= count */
double sampler_scale_input(const Sampler *s, int i); /* what sampler_input multiplies with */
/* Factor on unit noise for a run from pure noise at call 0. */
double sampler_init_noise_sigma(const Sampler *s);
/* x = the latents before call sampler_begin: unit noise scaled, or the source noised to that level (img2img, second pass) by the
 * reference's rule. Resets. x may alias noise or source. */
void sampler_start(Sampler *s, float *x, const float *noise, const float *source, size_t n);
/* Keeps the masked part: A1111 and ComfyUI put the source into every estimate of the result, ComfyUI also into the model's input;
 * diffusers puts the source, noised to the next level, into the latents after every step. After sampler_start. */
void sampler_inpaint(Sampler *s, const SamplerInpaint *p);
/* Euler, Heun, DPM2 with s_churn: noise added before call i. */
int sampler_needs_churn(const Sampler *s, int i);
void sampler_churn(const Sampler *s, int i, float *x, const float *noise, size_t n);
/* in[n] for the model from x[n]. May alias. */
void sampler_input(const Sampler *s, int i, float *in, const float *x, size_t n);
int sampler_needs_noise(const Sampler *s, int i);  /* whether step i reads unit noise with a weight that is not 0 */
/* The interval of sigmas whose Brownian increment is the noise of step i (DPM++ SDE, 2M SDE, 3M SDE); 0 for others, whose noise is
 * the next draw of a stream. range: the whole of the run, as the reference makes the Brownian path. */
int sampler_noise_interval(const Sampler *s, int i, double interval[2], double range[2]);
/* x[n] after call i, in place. model_out[n]; noise[n], may be NULL where not needed. Calls go up by one after a start or reset.
 * ERR_RANGE when out of order, n > max_n, or n changes within a run. */
int sampler_step(Sampler *s, int i, float *x, const float *model_out, const float *noise, size_t n);
/* x[n] = x0[n] noised to the level before call i (scheduler.add_noise). i == count: x0. May alias. */
int sampler_noise_to(const Sampler *s, int i, float *x, const float *x0, const float *noise, size_t n);
/* Estimate of x0 from the last sampler_step's model output, n floats, for previews; NULL before any step. Borrowed. */
const float *sampler_denoised(const Sampler *s);

#endif
