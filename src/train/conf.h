/* Configuration of `atelier train`; the table in conf.c holds keys, defaults, bounds and documentation. */
#ifndef TRAIN_CONF_H
#define TRAIN_CONF_H

#include "base/config.h"
#include "ops/op.h"

typedef enum { TRAIN_LORA, TRAIN_FULL, TRAIN_VAE, TRAIN_CLIP } TrainTaskKind;
typedef enum { TRAIN_SCHEDULE_CONSTANT, TRAIN_SCHEDULE_LINEAR, TRAIN_SCHEDULE_COSINE } TrainScheduleKind;
typedef enum { TRAIN_CROP_CENTER, TRAIN_CROP_RANDOM } TrainCrop;
typedef enum { TRAIN_LORA_KOHYA, TRAIN_LORA_PEFT } TrainLoraFormat;

typedef struct {
    char *path;       /* folder, .jsonl, .csv or .h5 image pack */
    char *caption;    /* caption for images without one; "" = file name */
    int32_t repeats;
} TrainDatasetConf;

typedef struct {
    int32_t rank;
    float alpha;      /* 0: rank */
    ConfStrs targets; /* globs over module paths */
    int format;       /* TrainLoraFormat */
} TrainLoraConf;

typedef struct {
    float lr, beta1, beta2, eps, weight_decay;
    int schedule;     /* TrainScheduleKind */
    int32_t warmup;
    float clip;       /* gradient norm; 0 off */
    float ema;        /* decay of the running average of the weights that is saved; 0 off */
} TrainOptimConf;

typedef struct {
    int32_t every, keep;
} TrainCheckpointConf;

typedef struct {
    float min_snr;    /* gamma; 0 off */
    float kl;         /* vae: weight of the KL term */
    float l1;         /* vae: weight of the L1 term beside the squared error */
} TrainLossConf;

typedef struct {
    int task;         /* TrainTaskKind */
    char *model;      /* diffusers folder */
    char *output;
    char *cache;      /* folder of latent and text caches; "" = output/cache */
    uint64_t seed;
    int dtype;        /* 0 f32, 1 bf16 */
    int32_t threads;
    int32_t steps, batch, micro_batch, resolution;
    ConfList datasets;
    int crop;         /* TrainCrop */
    int flip;
    ConfNums background;  /* RGB that transparent pixels are put on */
    float caption_dropout;
    TrainLoraConf lora;
    ConfStrs train;   /* full: globs over parameter names */
    TrainOptimConf optimizer;
    TrainLossConf loss;
    int gradient_checkpointing;
    TrainCheckpointConf checkpoint;
    int save_dtype;   /* 0 f32, 1 f16, 2 bf16: of the saved LoRA or model */
    int init_random;  /* start the trained model from random weights (needs only config.json) */
    int resume;
} TrainConf;

extern const ConfTable train_conf_table;

/* Reads, overrides and checks across keys (batch a multiple of micro_batch, ...). Call train_conf_deinit in every case. */
int train_conf_read(TrainConf *c, const char *path, const char *const *overrides, int count);
void train_conf_deinit(TrainConf *c);
Dtype train_conf_dtype(const TrainConf *c);
/* Learning rate of step `step` (0-based): warm-up rises linearly from lr/(warmup+1)... as transformers' get_scheduler:
 * lr * step/warmup below warmup, then constant, linear to 0, or half a cosine to 0 at `steps`. */
float train_conf_lr(const TrainConf *c, int64_t step);

#endif
