/* CLIP image tower and contrastive pair: transformers' CLIPModel (text_model, vision_model, projections, logit_scale), under the
 * root "clip" given by the caller. */
#ifndef MODELS_CLIP_VISION_H
#define MODELS_CLIP_VISION_H

#include "models/clip_text.h"

/* Both configs of a CLIPModel's config.json (text_config, vision_config, projection_dim). */
int clip_pair_config(ClipConfig *text, ClipConfig *vision, const ModelJson *j);

/* pixels [N,S,S,3], NHWC, normalised by the caller -> [N,P] (visual_projection of the normalised class token), or [N,C] without
 * projection. */
OpRef clip_vision_forward(NnCtx *nn, const ClipConfig *c, OpRef pixels);

/* Contrastive loss per item: mean of the cross-entropies image->text and text->image of exp(logit_scale) * I T^T over unit vectors.
 * image, text [N,P]; target: I32 [N] = 0..N-1. Result [N]: P. Radford et al., "Learning transferable visual models", fig. 3.
 * *logits (may be NULL): [N,N], rows are images. Declares logit_scale. */
OpRef clip_contrastive_loss(NnCtx *nn, OpRef image, OpRef text, OpRef target, OpRef *logits);

#endif
