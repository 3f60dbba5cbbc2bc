/* Images and captions of a dataset as a diffusion task takes them: latents and text embeddings, from caches where they are the same every
 * time, else computed as they come. */
#ifndef TRAIN_SET_H
#define TRAIN_SET_H

#include "models/pipeline.h"
#include "train/task.h"

typedef struct TrainSet TrainSet;

/* Fills the caches. Borrows data, pipe and t. text: also embeddings of captions. Collective. *out: train_set_close. */
int train_set_open(TrainSet **out, TrainTask *t, Pipeline *pipe, TrainDataset *data, int text);
void train_set_close(TrainSet *s);
/* Whether it may still need the weights of the VAE and of the text encoder. */
int train_set_needs_vae(const TrainSet *s);
int train_set_needs_text(const TrainSet *s);
/* Mean and log-variance of the item's latents, [h][w][2c] of its own size. */
int train_set_moments(TrainSet *s, int64_t item, int mirror, int64_t position, float *moments);
/* Weights of its cells, [h][w]: 1 where loss.mask is none. */
int train_set_mask(TrainSet *s, int64_t item, int mirror, int64_t position, float *mask);
/* Embeddings of a caption that train_dataset_caption gave for the item. */
int train_set_text(TrainSet *s, int64_t item, const char *caption, float *out);

#endif
