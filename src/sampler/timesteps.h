/* Which timesteps and sigmas a solver visits. Internal to this room. */
#ifndef SAMPLER_TIMESTEPS_H
#define SAMPLER_TIMESTEPS_H

#include "sampler/conf.h"

/* Most model calls of any solver for `steps` steps. */
enum { SAMPLER_EXTRA_CALLS = 9 };

/* alpha_bar[train_steps] with the float roundings of diffusers, zero_snr included where the class has it. */
int sampler_table(const SamplerConf *c, double *betas, double *alpha_bar);
/* t[], sigma[]: room for 2 * steps + SAMPLER_EXTRA_CALLS + 1. Returns the number of model calls K; sigma[K] is the last. */
int sampler_timesteps(const SamplerConf *c, const double *alpha_bar, double *t, double *sigma);

#endif
