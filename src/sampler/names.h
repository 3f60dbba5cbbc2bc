/* Names of samplers and schedules. Internal. */
#ifndef SAMPLER_NAMES_H
#define SAMPLER_NAMES_H

#include "sampler/conf.h"

#define SAMPLER_KNOWN_KINDS \
    "ddim, pndm, euler, euler_a, heun, dpm2, dpm2_a, lms, dpmpp_2s, dpmpp_2s_a, dpmpp_2m, dpmpp_sde, dpmpp_2m_sde, dpmpp_3m, " \
    "dpmpp_3m_sde, dpm_2m, unipc, deis, lcm, tcd, ddpm"
#define SAMPLER_KNOWN_SPACINGS \
    "automatic, normal, karras, exponential, polyexponential, sgm_uniform, simple, ddim_uniform, beta, kl_optimal, ays, ays_sdxl, lu, " \
    "leading, trailing, linspace"

/* Kind of a diffusers class, SAMPLER_KINDS when there is none. */
SamplerKind sampler_kind_of_class(const char *class_name);
/* Fields that neither the file nor the caller gave take the class's defaults. */
void sampler_conf_apply_class(SamplerConf *conf, SamplerKind kind);

#endif
