/* Shared by the two CLIP towers; private to them. */
#ifndef MODELS_CLIP_BLOCK_H
#define MODELS_CLIP_BLOCK_H

#include "models/clip_text.h"

/* Keys that both towers have, with the defaults of transformers' configs. */
int clip_config_common(ClipConfig *c, const ModelJson *j, int hidden, int intermediate, int heads);
/* encoder.layers.<index>: pre-norm attention and MLP. One recomputation segment. */
OpRef clip_layer(NnCtx *nn, const ClipConfig *c, OpRef x, int index, int causal);

#endif
