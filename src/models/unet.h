/* UNet of latent diffusion models: diffusers' UNet2DConditionModel of the SD 1.x and 2.x generality.
 * Parameters are named as in diffusers, under the root "unet" given by the caller. */
#ifndef MODELS_UNET_H
#define MODELS_UNET_H

#include "models/model_json.h"
#include "nn/nn.h"

enum { UNET_MAX_LEVELS = 8 };

typedef struct {
    int levels;
    int channels[UNET_MAX_LEVELS];      /* block_out_channels */
    int layers[UNET_MAX_LEVELS];        /* layers_per_block */
    int heads[UNET_MAX_LEVELS];         /* attention_head_dim, which is the NUMBER of heads in these configs */
    int depth[UNET_MAX_LEVELS];         /* transformer_layers_per_block */
    int down_cross[UNET_MAX_LEVELS];    /* CrossAttnDownBlock2D / DownBlock2D */
    int up_cross[UNET_MAX_LEVELS];      /* in the order of up_blocks */
    int only_cross[UNET_MAX_LEVELS];    /* only_cross_attention */
    int in_channels, out_channels;
    int context;                        /* cross_attention_dim */
    int groups;                         /* norm_num_groups */
    float eps;                          /* norm_eps of resnets and output; transformers use 1e-6 */
    int linear_projection;              /* use_linear_projection */
    int flip_sin_to_cos;
    float freq_shift;
    int center_input;                   /* center_input_sample: x -> 2x - 1 */
    int conv_in_kernel, conv_out_kernel;
    int downsample_padding;             /* 1, or 0: pads 0,1 */
    int time_dim;                       /* time_embedding_dim, default 4 * channels[0] */
    int sample_size;                    /* latent side the model was trained on */
} UnetConfig;

/* ERR_UNSUPPORTED names the key for every feature outside this generality. */
int unet_config(UnetConfig *c, const ModelJson *j);

/* x[N,H,W,in] NHWC, t[N] F32 (timesteps 0..999, may be fractional), context[N,L,D] -> [N,H,W,out], T. x and context of any
 * float dtype. Any H, W >= 1: the upsampler goes to the size of the skip. The current path is the root. */
OpRef unet_forward(NnCtx *nn, const UnetConfig *c, OpRef x, OpRef t, OpRef context);

/* SDXL's conditioning beside the context (addition_embed_type text_time): what "add_embedding" makes of both is added to the time embedding.
 * No pipeline gives it yet; benchmarks/gpu measures networks of that shape. */
typedef struct {
    OpRef text;   /* [N,D], any float dtype: pooled text embedding */
    OpRef sizes;  /* F32 [N*k]: original size, crop and target size (k = 6) */
    int size_dim; /* addition_time_embed_dim: values that each of them becomes */
} UnetAdded;
/* added NULL: unet_forward. */
OpRef unet_forward_added(NnCtx *nn, const UnetConfig *c, OpRef x, OpRef t, OpRef context, const UnetAdded *added);

#endif
