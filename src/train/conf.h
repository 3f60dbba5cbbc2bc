/* Configuration of `atelier train`; the table in conf.c holds keys, defaults, bounds and documentation. */
#ifndef TRAIN_CONF_H
#define TRAIN_CONF_H

#include "base/config.h"
#include "ops/op.h"

typedef enum { TRAIN_LORA, TRAIN_FULL, TRAIN_VAE, TRAIN_CLIP, TRAIN_EMBEDDING } TrainTaskKind;
typedef enum { TRAIN_ADAMW, TRAIN_ADAMW8, TRAIN_LION, TRAIN_ADAFACTOR, TRAIN_PRODIGY, TRAIN_SCHEDULEFREE } TrainOptimKind;
typedef enum {
    TRAIN_SCHEDULE_CONSTANT, TRAIN_SCHEDULE_LINEAR, TRAIN_SCHEDULE_COSINE, TRAIN_SCHEDULE_RESTARTS,
    TRAIN_SCHEDULE_POLYNOMIAL, TRAIN_SCHEDULE_INVERSE_SQRT, TRAIN_SCHEDULE_WSD, TRAIN_SCHEDULE_REX
} TrainScheduleKind;
typedef enum { TRAIN_DECAY_COSINE, TRAIN_DECAY_LINEAR, TRAIN_DECAY_SQRT } TrainDecayShape;
typedef enum { TRAIN_CROP_CENTER, TRAIN_CROP_RANDOM } TrainCrop;
typedef enum { TRAIN_LORA_KOHYA, TRAIN_LORA_PEFT } TrainLoraFormat;

typedef struct {
    char *path;       /* folder, .jsonl, .csv or .h5 image pack */
    char *caption;    /* caption for images without one; "" = file name */
    char *prompt;     /* caption of all, in place of what their files say; "" */
    int32_t repeats;  /* 0: of the folder's name, else 1 */
    float weight;     /* of the loss */
    char *masks;      /* folder, "" */
    char *images;     /* folder that a list's paths are relative to; "": the list's own */
    int is_reg;       /* regularisation images: as many as the others in an epoch, weighted by prior_weight */
    char *extension;  /* of caption files; "": .txt, then .caption */
    char *trigger, *prefix, *suffix;
    int shuffle;
    int32_t keep_tokens;
    char *separator, *keep_separator, *secondary_separator;
    int wildcards;
    float caption_dropout; /* -1: the run's */
    int32_t caption_dropout_every;
    float tag_dropout;
    int flip, crop;   /* 0: the run's, else 1 + value */
} TrainDatasetConf;

typedef struct {
    int enabled;
    int32_t min, max, steps;
    int no_upscale;
} TrainBucketConf;

typedef enum { TRAIN_TYPE_LORA, TRAIN_TYPE_LOHA, TRAIN_TYPE_LOKR } TrainLoraType;

typedef struct {
    char *match;      /* glob over module paths */
    int32_t rank;     /* 0: as before */
    float alpha, lr;  /* 0: as before */
} TrainLoraRuleConf;

typedef struct {
    int type;         /* TrainLoraType */
    int32_t rank;
    float alpha;      /* 0: rank */
    int32_t conv_rank; /* 0: rank */
    float conv_alpha;
    int rslora, dora;
    int32_t lokr_factor;
    int decompose_both;
    ConfStrs targets, exclude; /* globs over module paths */
    ConfList rules;   /* TrainLoraRuleConf */
    float dropout, rank_dropout, module_dropout;
    float max_norm;   /* 0 off */
    char *init;       /* file; "" none */
    int format;       /* TrainLoraFormat */
} TrainLoraConf;

/* Parameters whose names match a pattern. */
typedef struct {
    ConfStrs match;
    float lr;           /* -1: lr_scale * optimizer.lr */
    float lr_scale;
    float weight_decay; /* -1: the optimizer's */
} TrainGroupConf;

typedef struct {
    int relative_step, scale_parameter, warmup_init;
    float clip_threshold, decay_rate;
} TrainAdafactorConf;

typedef struct {
    double d0, d_coef, growth_rate;
    int bias_correction, safeguard_warmup;
} TrainProdigyConf;

typedef struct {
    double r, weight_lr_power;
} TrainScheduleFreeConf;

typedef struct {
    int name;         /* TrainOptimKind */
    float lr, text_encoder_lr, lora_plus, beta1, beta2, eps, weight_decay;
    int schedule;     /* TrainScheduleKind */
    int32_t schedule_steps, warmup, cycles;
    float power;
    int32_t timescale, decay;
    int decay_shape;  /* TrainDecayShape */
    float min_lr;     /* fraction of lr */
    float clip;       /* gradient norm; 0 off */
    int weights;      /* 0: f32; 1: matrices and kernels in bf16, rounded stochastically */
    float ema;        /* decay of the running average of the weights that is saved; 0 off */
    int32_t max_skips;
    ConfList groups;  /* TrainGroupConf */
    TrainAdafactorConf adafactor;
    TrainProdigyConf prodigy;
    TrainScheduleFreeConf schedulefree;
} TrainOptimConf;

typedef struct {
    int32_t every, keep, milestone;
    int background;
} TrainCheckpointConf;

typedef enum { TRAIN_HUBER_SNR, TRAIN_HUBER_EXPONENTIAL, TRAIN_HUBER_CONSTANT } TrainHuberSchedule;
typedef enum { TRAIN_MASK_NONE, TRAIN_MASK_ALPHA, TRAIN_MASK_IMAGES } TrainMask;
typedef enum { TRAIN_FLOW_NONE, TRAIN_FLOW_SIGMA_SQRT, TRAIN_FLOW_COSMAP } TrainFlowWeighting;
/* After MODEL in the order of SamplerPredict. */
typedef enum { TRAIN_PREDICT_MODEL, TRAIN_PREDICT_EPSILON, TRAIN_PREDICT_V, TRAIN_PREDICT_SAMPLE, TRAIN_PREDICT_FLOW } TrainPredict;

typedef struct {
    int type;           /* OpLoss */
    int huber_schedule; /* TrainHuberSchedule */
    float huber_c, huber_scale;
    float min_snr;      /* gamma; 0 off */
    int debiased, scale_v_pred_loss_like_noise_pred;
    float v_pred_like_loss;
    int flow_weighting; /* TrainFlowWeighting */
    int mask;           /* TrainMask */
    float kl;           /* vae: weight of the KL term */
    float l1;           /* vae: weight of the L1 term beside the squared error */
} TrainLossConf;

typedef struct {
    int predict;        /* TrainPredict */
    int zero_snr;
    float offset;
    int offset_random;
    float offset_adaptive;
    int32_t multires_iterations;
    float multires_discount;
    float perturbation;
    int perturbation_random;
    int32_t timestep_min, timestep_max;
    int distribution;   /* 0 uniform, 1 logit_normal */
    float mean, std, shift;
} TrainNoiseConf;

typedef struct {
    ConfList datasets;  /* TrainDatasetConf */
    int32_t every, draws;
} TrainValidationConf;

typedef struct {
    char *prompt, *class_prompt; /* "": off */
    char *class_images; /* folder, "": OUTPUT/class */
    int32_t count;
    float weight;
    char *negative, *sampler;
    int32_t steps;
    double guidance;
    int64_t seed;
} TrainDreamboothConf;

typedef struct {
    ConfStrs prompts; /* with options, samples.h */
    int32_t every;
    char *negative, *sampler;
    int32_t steps;
    double guidance;
    int64_t seed;
} TrainSamplesConf;

typedef struct {
    char *token;      /* "": none */
    int32_t vectors;
    char *init;       /* words, or a file */
    ConfStrs prompts; /* captions with {} for the token */
    int format;       /* InversionForm */
} TrainEmbeddingConf;

typedef struct {
    char *title, *author, *description, *license, *tags, *trigger_phrase, *usage_hint; /* "": none, or from the rest of the configuration */
} TrainMetadataConf;

typedef struct {
    int task;         /* TrainTaskKind */
    char *model;      /* diffusers folder */
    char *output;
    char *cache;      /* folder of latent and text caches; "" = output/cache */
    uint64_t seed;
    int dtype;        /* 0 f32, 1 bf16 */
    int device;             /* DEVICE_* */
    int32_t threads;
    int sum_by;       /* CommDeviceHow */
    int64_t sum_bucket; /* bytes */
    double patience;  /* seconds; 0: no limit */
    int32_t steps, batch, micro_batch, resolution;
    ConfList datasets;
    TrainDreamboothConf dreambooth;
    int crop;         /* TrainCrop */
    int flip;
    TrainBucketConf bucket;
    float prior_weight;
    int cache_scope;  /* 0 shared, 1 node */
    ConfNums background;  /* RGB that transparent pixels are put on */
    float caption_dropout;
    int text_encoder; /* 1: trained */
    TrainLoraConf lora;
    TrainEmbeddingConf embedding;
    ConfStrs train;   /* full: globs over parameter names */
    TrainOptimConf optimizer;
    TrainLossConf loss;
    TrainNoiseConf noise;
    TrainValidationConf validation;
    int gradient_checkpointing;
    int64_t memory;   /* bytes a rank may take; 0: no limit */
    TrainSamplesConf samples;
    int tensorboard, report;
    TrainCheckpointConf checkpoint;
    int32_t save_every; /* steps between files in OUTPUT/saves; 0: none */
    int save_dtype;   /* 0 f32, 1 f16, 2 bf16: of the saved LoRA or model */
    TrainMetadataConf metadata;
    int init_random;  /* start the trained model from random weights (needs only config.json) */
    int resume;
} TrainConf;

extern const ConfTable train_conf_table;
extern const ConfTable train_lora_table; /* the key `lora`; conf_lora.c */

/* Reads, overrides and checks across keys (batch a multiple of micro_batch, ...). Call train_conf_deinit in every case. */
int train_conf_read(TrainConf *c, const char *path, const char *const *overrides, int count);
/* The last part of it: fills in what depends on other keys. path: for messages. */
int train_conf_check(TrainConf *c, const char *path);
void train_conf_deinit(TrainConf *c);
Dtype train_conf_dtype(const TrainConf *c);
/* Whether the text encoder is part of the training graph. */
int train_conf_has_text(const TrainConf *c);
/* Tasks that train on noised latents. */
int train_conf_is_diffusion(const TrainConf *c);
/* Learning rate of step `step` (0-based). Warm-up as transformers' get_scheduler: lr * step/warmup below warmup, where schedulefree takes
 * (step+1)/warmup. Then constant; linear, cosine, polynomial, REX (arXiv:2107.04197: (1-z)/(1/2 + (1-z)/2)) from lr to min_lr * lr at
 * `steps`; cosine with hard restarts; inverse square root; wsd: constant, the fall in the last `decay` steps (names and formulas of
 * transformers). adafactor with relative_step: its rate before scaling by the parameters. */
float train_conf_lr(const TrainConf *c, int64_t step);
/* The same for parameters with the peak rate lr. */
float train_conf_lr_of(const TrainConf *c, double lr, int64_t step);
/* Whether the learning rate of a step depends on the number of steps. */
int train_optim_needs_steps(const TrainOptimConf *o);
const char *train_schedule_name(int kind);
const char *train_loss_name(int type);         /* loss.type */
const char *train_huber_name(int schedule);    /* loss.huber_schedule */

/* ---- inside conf*.c ---- */
extern const ConfTable train_dataset_table, train_bucket_table; /* conf_data.c */
/* Rounds min and max to steps as kohya does; refuses what does not fit together. */
int train_data_check(TrainConf *c, const char *path);
extern const ConfTable train_loss_table, train_noise_table;
int train_loss_check(const TrainLossConf *l, const TrainNoiseConf *n, const char *path);
extern const ConfTable train_optim_table;
/* Fills in what depends on the optimizer and refuses what does not fit together. */
int train_optim_check(TrainOptimConf *o, int32_t steps, const char *path);

#endif
