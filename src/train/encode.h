/* Frozen encoders used to fill caches: images to VAE moments, captions to text embeddings. F32. Not thread-safe. */
#ifndef TRAIN_ENCODE_H
#define TRAIN_ENCODE_H

#include "models/pipeline.h"
#include "ops/backend.h"

typedef struct TrainEncoder TrainEncoder;

/* Borrows pipe and be. batch: items per run; results do not depend on it. */
int train_encoder_create_images(TrainEncoder **out, Pipeline *pipe, Backend *be, int height, int width, int batch);
int train_encoder_create_texts(TrainEncoder **out, Pipeline *pipe, Backend *be, int batch);
void train_encoder_destroy(TrainEncoder *e);
/* images[n][height][width][3] (pixels) -> moments[n][h][w][2c] (mean|logvar along channels). Any n. */
int train_encoder_images(TrainEncoder *e, const uint8_t *images, int n, float *moments);
/* The token ids that a caption is encoded from: ids[length], length = positions of the text encoder. */
int train_encoder_tokens(TrainEncoder *e, const char *text, int32_t *ids);
/* n captions -> [n][length][width]: the last hidden state after the final norm. */
int train_encoder_texts(TrainEncoder *e, const char *const *text, int n, float *out);

#endif
