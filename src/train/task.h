/* What is trained: a task builds the training graph and fills it for a micro-batch; the loop (loop.h) knows nothing else.
 * Everything a task draws at random is a function of (seed, purpose, global position) alone. */
#ifndef TRAIN_TASK_H
#define TRAIN_TASK_H

#include "comm/comm.h"
#include "graph/exec.h"
#include "models/lora.h"
#include "nn/nn.h"
#include "nn/param.h"
#include "train/dataset.h"
#include "train/state.h"

typedef struct TrainTask TrainTask;

/* Where users find what was trained. */
typedef struct {
    const char *folder; /* OUTPUT; OUTPUT/saves while the run goes on */
    char mark[16];      /* behind the names of files there, and of a folder `step` for parts of a model: ""; "-00000200" */
} TrainPlace;

/* The training graph for images of one size. All of a task's have the same parameters in the same order. */
typedef struct {
    Graph *g;
    Plan *plan;
    Exec *ex;
    OpRef loss;            /* [micro_batch] P */
    OpRef seed;            /* [micro_batch] P: 1/batch */
    OpRef *wrt, *grad;     /* trained parameters and their gradients, P */
} TrainShape;

struct TrainTask {
    /* set by the caller of train_task_open, borrowed */
    const TrainConf *conf;
    Comm *comm;
    Backend *be;
    /* owned */
    TrainDataset *data;
    NnParams *params;
    TrainShape now;        /* the one in use */
    int nwrt;
    char *recomputed;      /* what conf->memory made the plan recompute, as text; NULL without it */
    Lora *adapter;         /* of task lora, the task's own; NULL */
    int32_t *set;          /* [micro_batch]: dataset of each sample of the last fill; NULL where the task does not say */
    /* With buckets: `now` is a copy of shape[at]; train_task_use changes it. NULL without. */
    TrainShape *shape;
    int nshape, at;
    char model_hash[HASH_HEX_SIZE]; /* rank 0: SHA-256 of the weight file that training starts from; "" for random weights */
    /* Inputs of the micro-batch whose first image has this global position (step * batch + j). */
    int (*fill)(TrainTask *t, int64_t position);
    /* Mean loss of the held-out images with the values that are bound, the same on every rank; NaN where not finite. NULL: none. Collective. */
    int (*validate)(TrainTask *t, double *loss);
    /* After every optimizer step, when the new values are in params: may change them there and in s->param alike. NULL: nothing. */
    int (*limit)(TrainTask *t, TrainState *s);
    /* Writes what users want from the run: LoRA file, embedding or model. values: trained values in slot order (weights or their running
     * average), which the parameters hold afterwards. Called on rank 0. */
    int (*save)(TrainTask *t, const TrainState *s, const float *values, const TrainPlace *to);
    void (*close)(TrainTask *t);
    void *impl;
};

/* Builds everything up to (not including) the arena: graph, gradients, plan. Collective (caches). With plan_only, no caches are
 * made and no weights are read beyond headers. */
int train_task_open(TrainTask *t, int plan_only);
void train_task_close(TrainTask *t);

/* Makes the executors, which share one arena. */
int train_task_executors(TrainTask *t);
/* Binds the present values of the parameters to all executors. */
int train_task_bind(TrainTask *t);
/* The shape that the next fill, run and reading of gradients are about; writes its seed. */
int train_task_use(TrainTask *t, int k);

/* ---- for tasks ---- */
int train_diffusion_open(TrainTask *t, int plan_only); /* lora, full */
int train_vae_open(TrainTask *t, int plan_only);
int train_clip_open(TrainTask *t, int plan_only);
/* Seeds `loss`, differentiates with respect to nn->trained, makes the gradients outputs, optimizes and plans. */
int train_task_differentiate(TrainTask *t, NnCtx *nn, OpRef loss);
/* The part of it after the loss: with conf->memory as few segments are recomputed as keep a rank within it (recompute.c). */
int train_task_make_plan(TrainTask *t);
/* nn_params_load for a model part; what is trained becomes a copy of its own, the rest stays mapped (files must stay open then). */
int train_task_load(TrainTask *t, const char *root, IoSafetensors *files, NnNameFn names);
/* Bytes of a rank: the arena, all parameters (frozen ones may stay mapped), sums and state of the optimizer. */
void train_task_bytes(const TrainTask *t, double *arena, double *params, double *state);
/* ERR_RANGE when the ranks of this node need more memory than it has, or this rank more than its device has free, with the settings to
 * change. Before any work. */
int train_task_fits(const TrainTask *t);
/* 1 when this node also has room for a second copy of the optimizer's state. */
int train_task_spare(const TrainTask *t);
/* Copies values (slot order of s) into the parameters, rounded to the nearest where they are bf16, and marks them changed. */
int train_task_set_values(TrainTask *t, const TrainState *s, const float *values);
/* Moves `now` into a new shape, whose place is *k, and leaves a graph to be built for another. */
int train_task_keep_shape(TrainTask *t, int *k);
/* micro_batch images of a position, pixels in NHWC. items: their numbers (may be NULL). */
int train_task_images(TrainTask *t, int64_t position, uint8_t *nhwc, int64_t *items);
/* Saves the parameters under root to <part>/<file> with the config.json of MODEL/<part>. */
int train_task_save_part(TrainTask *t, const TrainState *s, const float *values, const TrainPlace *to, const char *root, const char *part,
                         const char *file);
/* The parts of MODEL that were not trained, beside those that were: a whole model folder. They share their files with MODEL where they can. */
int train_task_save_rest(const TrainTask *t, const TrainPlace *to);
/* NAME.safetensors there; the folder is made. */
int train_place_file(char **path, const TrainPlace *to, const char *name);

#endif
