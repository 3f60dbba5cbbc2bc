/* What an optimizer changes: all trained values in one flat F32 array, the optimizer's own arrays and numbers, an optional running
 * average, and the history of the run. The whole of it is what a checkpoint holds. */
#ifndef TRAIN_STATE_H
#define TRAIN_STATE_H

#include "base/hash.h"
#include "train/conf.h"

typedef struct {
    char *name;      /* as in the graph: "unet.conv_in.weight", "lora.0.unet....lora_A.weight" */
    Shape shape;
    int64_t offset, count; /* in the flat arrays */
    Dtype dtype;     /* F32, or BF16: param holds bf16 values as floats (optimizer.weights) */
} TrainSlot;

/* Which slots an array of the optimizer covers, and with what shape. */
typedef enum {
    TRAIN_OF_ALL,    /* every slot, its shape, at its offset */
    TRAIN_OF_SMALL,  /* slots of fewer than TRAIN_LARGE values, their shape */
    TRAIN_OF_LARGE,  /* the others */
    TRAIN_OF_BLOCKS, /* one value per OPTIM_BLOCK values of a large slot */
    TRAIN_OF_ROWS,   /* slots of two and more dimensions, without the last */
    TRAIN_OF_COLS,   /* these, without the last but one */
    TRAIN_OF_VECTORS /* slots of less than two dimensions */
} TrainCover;
enum { TRAIN_LARGE = 4096, TRAIN_ARRAYS = 8, TRAIN_NUMBERS = 4 };

typedef struct {
    const char *group;    /* in the checkpoint: "adam_m". Static */
    Dtype dtype;          /* F32 or U8 */
    TrainCover cover;
    void *data;           /* [n], zero at first, also between slots */
    int64_t n, *at;       /* first element of each slot, -1 where not covered */
} TrainArray;

typedef struct {
    TrainSlot *slot;
    int count;
    int64_t n;            /* sum of counts */
    float *param;         /* [n], 64-byte aligned slots (padding between slots is zero) */
    TrainArray array[TRAIN_ARRAYS];
    int narray;
    double number[TRAIN_NUMBERS]; /* of the optimizer */
    int nnumber;
    float *ema;           /* [n] or NULL */
    int64_t step;         /* steps done */
    float *loss;          /* [step] mean loss of each step */
    float *norm;          /* [step] gradient norm before clipping; NaN where unknown */
    int64_t loss_cap;
    int64_t *valid_step;  /* [nvalid] steps done at each validation, and its loss */
    float *valid_loss;
    int64_t nvalid;
    int64_t skipped;      /* steps skipped because of non-finite gradients */
} TrainState;

/* What a run started from, kept in its checkpoints. "" where unknown. */
typedef struct {
    const char *backend;
    char model[HASH_HEX_SIZE]; /* SHA-256 of the weight file that is trained or adapted; "" for random weights */
    char data[HASH_HEX_SIZE];  /* train_dataset_digest */
} TrainOrigin;

/* Adds a slot; offsets are assigned in order of addition. Before train_state_alloc. */
int train_state_add(TrainState *s, const char *name, Dtype dtype, Shape shape);
/* Declares an array of the optimizer. After all slots, before train_state_alloc. */
int train_state_array(TrainState *s, const char *group, Dtype dtype, TrainCover cover);
int train_state_alloc(TrainState *s, int ema);
/* Its part for a slot, NULL where not covered. */
void *train_array_slot(const TrainArray *a, int slot);
/* Shape of that part; 0 where not covered. */
int train_array_shape(TrainCover cover, const TrainSlot *t, Shape *out);
void train_state_deinit(TrainState *s);
/* A step is done. */
int train_state_push_step(TrainState *s, float loss, float norm);
int train_state_push_validation(TrainState *s, int64_t step, float loss);
/* A deep copy. out: train_state_deinit, also after an error. */
int train_state_copy(TrainState *out, const TrainState *s);

/* Writes OUT/checkpoints/step-00000100.h5 (written beside, fsync'ed, renamed), then removes all but the newest `keep`, the
 * milestones, and any of later steps. config: the resolved YAML. Layout: docs/formats.md. */
int train_checkpoint_save(TrainState *s, const TrainConf *c, const char *config, const TrainOrigin *origin);
/* Finds the newest readable checkpoint in OUT/checkpoints and reads it into s (slots must match by name and shape).
 * Damaged newer ones are reported as warnings and passed over. *found = 0 when there is none. After an error s holds nothing usable.
 * ERR_RANGE names the first setting that differs from the checkpoint's config and would change the result, or says that the
 * checkpoint is past conf->steps or of another model or data (where both origins know); ERR_FORMAT: there are checkpoints, but none can be read. */
int train_checkpoint_resume(TrainState *s, const TrainConf *c, const TrainOrigin *origin, int *found);

#endif
