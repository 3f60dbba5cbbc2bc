/* The contrastive pair of a model folder (MODEL/clip, a transformers CLIPModel, with MODEL/tokenizer): captions and pictures as unit
 * vectors of one space, whose inner products say how well they fit. F32. Not thread-safe. */
#ifndef MODELS_CLIP_PAIR_H
#define MODELS_CLIP_PAIR_H

#include "models/clip_vision.h"
#include "ops/backend.h"

typedef struct ClipPair ClipPair;

/* Borrows be. ERR_NOTFOUND when the model has no clip folder. */
int clip_pair_open(ClipPair **out, const char *model, Backend *be);
void clip_pair_close(ClipPair *p);
int clip_pair_width(const ClipPair *p); /* P, floats per vector */
int clip_pair_side(const ClipPair *p);  /* pixels of a side of the pictures it takes */
/* n captions -> out[n][P]. */
int clip_pair_texts(ClipPair *p, const char *const *text, int n, float *out);
/* images[n][side][side][3], -1..1 -> out[n][P]. */
int clip_pair_images(ClipPair *p, const float *images, int n, float *out);

#endif
