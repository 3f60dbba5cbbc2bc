/* VAE: diffusers' AutoencoderKL. Images are NHWC in -1..1. Parameters under the root "vae" given by the caller. */
#ifndef MODELS_VAE_H
#define MODELS_VAE_H

#include "models/model_json.h"
#include "nn/nn.h"
#include "nn/param.h"

enum { VAE_MAX_LEVELS = 8 };

typedef struct {
    int levels;
    int channels[VAE_MAX_LEVELS];  /* block_out_channels */
    int layers;                    /* layers_per_block */
    int in_channels, out_channels, latent_channels;
    int groups;                    /* norm_num_groups; eps is 1e-6 */
    int quant, post_quant;         /* 1x1 convolutions present */
    int mid_attention;
    float scaling;                 /* model latents = (z - shift) * scaling */
    float shift;
    int sample_size;
} VaeConfig;

int vae_config(VaeConfig *c, const ModelJson *j);
/* Pixels per latent element along one side: 2^(levels-1). */
int vae_factor(const VaeConfig *c);
/* image[N,H,W,in] -> moments [N,H/f,W/f,2*latent] = mean | logvar. */
OpRef vae_encode(NnCtx *nn, const VaeConfig *c, OpRef image);
/* z[N,h,w,latent] as the VAE has it (divide model latents by `scaling`, add `shift` first) -> image [N,h*f,w*f,out]. */
OpRef vae_decode(NnCtx *nn, const VaeConfig *c, OpRef z);
/* File names: also the old query/key/value/proj_attn of the mid attention (NnNameFn). */
int vae_names(const char *name, int k, char *buf, size_t size);

#endif
