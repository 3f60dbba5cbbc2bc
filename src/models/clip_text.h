/* CLIP text encoder: transformers' CLIPTextModel and CLIPTextModelWithProjection. Pre-norm causal transformer. Parameters carry
 * transformers' names with "text_model." under the root given by the caller ("text_encoder", or "clip" for the pair). */
#ifndef MODELS_CLIP_TEXT_H
#define MODELS_CLIP_TEXT_H

#include "models/model_json.h"
#include "nn/nn.h"
#include "nn/param.h"

enum { CLIP_MAX_LAYERS = 64 };

typedef struct {
    int hidden, intermediate, layers, heads;
    int positions;       /* text: max_position_embeddings; every sequence has this length */
    int vocab;           /* text */
    int image, patch, channels; /* vision: side in pixels, side of a patch */
    Act act;             /* quick_gelu, gelu (erf), gelu_new/gelu_pytorch_tanh */
    float eps;
    int eos;             /* text: eos_token_id; 2 means "the largest id" (transformers' legacy rule) */
    int projection;      /* width of text_projection / visual_projection; 0: none */
} ClipConfig;

/* Text config of a text_encoder/ folder. with_projection: the class is CLIPTextModelWithProjection. */
int clip_text_config(ClipConfig *c, const ModelJson *j, int with_projection);
typedef struct {
    int layers;
    OpRef hidden[CLIP_MAX_LAYERS + 1]; /* [N,L,C]: 0 the embeddings, i after layer i, without the final norm */
    OpRef last;                        /* final norm of hidden[layers - (skip - 1)]; skip 1 is the last layer */
    OpRef pooled;                      /* [N,C]: last at pool_index (OP_NONE without it) */
    OpRef embeds;                      /* [N,P]: pooled times text_projection (OP_NONE without projection) */
} ClipText;

/* ids: I32 [N, positions]; pool_index: I32 [N] or OP_NONE. skip >= 1 ("clip skip": 2 uses the layer before the last). The current
 * path is the root. Layers after the one used for `last` are emitted too but dropped by graph_optimize. */
int clip_text_forward(NnCtx *nn, const ClipConfig *c, OpRef ids, OpRef pool_index, int skip, ClipText *out);
/* The same where vectors stand in place of some tokens (textual inversion): keep F32 [N, positions, hidden], 0 at those places, else 1;
 * vectors F32 likewise, 0 where a token is kept. ids there: any. */
int clip_text_forward_vectors(NnCtx *nn, const ClipConfig *c, OpRef ids, OpRef keep, OpRef vectors, OpRef pool_index, int skip, ClipText *out);
/* Which token is pooled, per sequence of ids[n][length]. */
void clip_text_pool_index(const ClipConfig *c, const int32_t *ids, int n, int length, int32_t *index);

/* File names: with and without "text_model." (NnNameFn). */
int clip_names(const char *name, int k, char *buf, size_t size);

#endif
