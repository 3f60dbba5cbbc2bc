/* The training loop: data-parallel over micro-batches (step.h), exact and resumable. */
#ifndef TRAIN_LOOP_H
#define TRAIN_LOOP_H

#include "comm/comm.h"
#include "io/safetensors.h"
#include "models/pipeline.h"
#include "ops/backend.h"
#include "sampler/schedule.h"
#include "train/dataset.h"
#include "train/state.h"
#include "train/step.h"

typedef struct {
    int64_t steps;      /* done, all in all */
    float first_loss, last_loss; /* means over the first and last tenth of the steps */
    double images_per_s;
    double wall, seconds[TRAIN_PHASES]; /* of this rank's part of the run, and of it in each phase of the steps */
    int64_t first, values;  /* steps that were done before; trained values */
} TrainResult;

/* Collective. 0 when all steps are done, ERR_STOPPED after a signal (state saved), else an error agreed by all ranks. */
int train_run(const TrainConf *c, Comm *comm, Backend *be, TrainResult *result);
/* What a run will need; bytes are of a rank. Not collective. */
typedef struct {
    int64_t images, epoch;
    double trained;      /* values */
    double flops_image;
    double arena, live, params, state;
    int nodes;           /* ops */
    char recomputed[300]; /* a line for people; "": nothing is */
} TrainNeed;
int train_plan(const TrainConf *c, Backend *be, TrainNeed *n);
/* The same as text for people. */
int train_plan_print(const TrainConf *c, Backend *be);

/* Metadata of a saved LoRA: ss_* as kohya's scripts write them, modelspec.*. held: validation's images; NULL: none. */
typedef struct {
    IoMeta item[128];
    char *text[128];    /* owned values; keys are constants */
    int count;
} TrainMeta;
int train_lora_metadata(TrainMeta *m, const TrainConf *c, const TrainDataset *d, const TrainDataset *held, const TrainState *s, Pipeline *pipe,
                        SamplerPredict predict);
void train_meta_deinit(TrainMeta *m);
/* ---- inside metadata*.c ---- */
#define TRAIN_RESIZE "lanczos" /* how pictures are resized, as kohya names it */
int train_meta_add(TrainMeta *m, const char *key, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* As Python prints a float. */
int train_meta_add_number(TrainMeta *m, const char *key, float v);
/* What the images are: ss_datasets, ss_tag_frequency, ss_dataset_dirs, ss_reg_dataset_dirs, ss_bucket_info and the like. */
int train_meta_add_data(TrainMeta *m, const TrainConf *c, const TrainDataset *d);

#endif
