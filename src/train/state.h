/* What an optimizer changes: all trained values in one flat F32 array, with AdamW moments and an optional running average,
 * and the history of the run. The whole of it is what a checkpoint holds. */
#ifndef TRAIN_STATE_H
#define TRAIN_STATE_H

#include "base/hash.h"
#include "train/conf.h"

typedef struct {
    char *name;      /* as in the graph: "unet.conv_in.weight", "lora.0.unet....lora_A.weight" */
    Shape shape;
    int64_t offset, count; /* in the flat arrays */
} TrainSlot;

typedef struct {
    TrainSlot *slot;
    int count;
    int64_t n;            /* sum of counts */
    float *param, *m, *v; /* [n], 64-byte aligned slots (padding between slots is zero) */
    float *ema;           /* [n] or NULL */
    int64_t step;         /* steps done */
    float *loss;          /* [step] mean loss of each step */
    int64_t loss_cap;
    int64_t skipped;      /* steps skipped because of non-finite gradients */
} TrainState;

/* What a run started from, kept in its checkpoints. "" where unknown. */
typedef struct {
    const char *backend;
    char model[HASH_HEX_SIZE]; /* SHA-256 of the weight file that is trained or adapted; "" for random weights */
    char data[HASH_HEX_SIZE];  /* train_dataset_digest */
} TrainOrigin;

/* Adds a slot; offsets are assigned in order of addition. Before train_state_alloc. */
int train_state_add(TrainState *s, const char *name, Shape shape);
int train_state_alloc(TrainState *s, int ema);
void train_state_deinit(TrainState *s);
int train_state_push_loss(TrainState *s, float loss);

/* Writes OUT/checkpoints/step-00000100.h5 (written beside, fsync'ed, renamed), then removes all but the newest `keep` and any of
 * later steps. config: the resolved YAML. Layout: docs/formats.md. */
int train_checkpoint_save(const TrainState *s, const TrainConf *c, const char *config, const TrainOrigin *origin);
/* Finds the newest readable checkpoint in OUT/checkpoints and reads it into s (slots must match by name and shape).
 * Damaged newer ones are reported as warnings and passed over. *found = 0 when there is none. After an error s holds nothing usable.
 * ERR_RANGE names the first setting that differs from the checkpoint's config and would change the result, or says that the
 * checkpoint is past conf->steps or of another model or data (where both origins know); ERR_FORMAT: there are checkpoints, but none can be read. */
int train_checkpoint_resume(TrainState *s, const TrainConf *c, const TrainOrigin *origin, int *found);

#endif
