/* LoRA adapters: files (kohya, diffusers/PEFT, old diffusers), fresh ones, merging. Values are F32 on the host.
 *
 *     NnModules mods = {0};                       pipeline_modules(p, &mods)        // what the base model offers
 *     TRY(lora_load(&lo, path, &mods));           // or lora_create(&lo, &spec, &mods)
 *     nn.lora = (const NnLora *[]){lora_nn(lo, 0)}, nn.nlora = 1;                    // then build the model
 *     TRY(lora_add_params(lo, 0, ps));            // "lora.0.*": factors (the adapter's memory) and the scale
 *     TRY(lora_set_scale(ps, 0, 0.8f));           // between runs; then nn_params_bind
 *
 * Formats: docs/formats.md. */
#ifndef MODELS_LORA_H
#define MODELS_LORA_H

#include "nn/nn.h"
#include "nn/param.h"

/* A module's change; see nn/adapter.h for the kinds and their factors. */
typedef struct {
    char *path;               /* full module path, "unet.mid_block...to_q" */
    NnAdapterKind kind;
    Shape weight;             /* of the module */
    Shape shape[NN_FACTORS];  /* ndim 0: absent */
    float *f[NN_FACTORS];     /* NULL: absent */
    int rank;
    float alpha;              /* the factor is alpha / rank; with rsLoRA this is alpha * sqrt(rank) */
    uint8_t fresh;            /* magnitudes are still to be set: lora_init_magnitude */
} LoraPart;

typedef struct Lora Lora;

/* alpha / rank */
float lora_factor(const LoraPart *p);

/* Reads a file of LoRA, LoHa, LoKr, their DoRA forms, full and norm differences; names are resolved against `modules`. Tucker forms
 * are folded into the plain ones. ERR_UNSUPPORTED for other kinds (OFT, GLoRA, ...), ERR_NOTFOUND for a module that the base model
 * lacks, ERR_SHAPE; messages name the file and the tensor. */
int lora_load(Lora **out, const char *path, const NnModules *modules);
/* The same from bytes in memory; `name` stands for the file in messages. */
int lora_load_memory(Lora **out, const void *data, size_t size, const char *name, const NnModules *modules);

/* The modules that a file itself names, without a model: paths are the root and the rest with '_' for '.' ("unet.mid_block_...to_q",
 * "text_encoder_2....", "other...."). A file loaded against them can be inspected, merged, resized and saved in kohya's naming. Adds
 * to *mods what is not there yet. */
int lora_file_modules(NnModules *mods, const char *path);

/* Settings of the modules that `match` (nn_glob over paths); later rules win, value by value. */
typedef struct {
    const char *match;
    int rank;                     /* 0: as before */
    float alpha;                  /* <= 0: as before, but the rank's where a rule sets the rank and none the alpha */
} LoraRule;

typedef struct {
    NnAdapterKind kind;           /* LORA, LOHA, LOKR */
    int rank;
    float alpha;                  /* <= 0: rank */
    int conv_rank;                /* for kernels larger than 1x1; 0: rank */
    float conv_alpha;             /* <= 0: alpha where conv_rank is 0, else conv_rank */
    int rslora;                   /* factor alpha / sqrt(rank), Kalajdzievski 2023 */
    int dora;
    int lokr_factor;              /* LOKR: first dimension of w1, as LyCORIS' factorization(); < 1: near the root */
    int decompose_both;           /* LOKR: w1 too where the rank is below half its size */
    const char *const *targets;   /* globs over module paths, see nn_glob: "attn*.to_q", "*ff.net*", "text_encoder.*q_proj" */
    int ntargets;
    const char *const *exclude;   /* modules among them that get none */
    int nexclude;
    const LoraRule *rule;
    int nrule;
    uint64_t seed;
} LoraSpec;
/* Fresh adapter, keyed by (seed, path, factor); D = 0 at first.
 * LORA: down kaiming_uniform(a = sqrt 5), that is U(-1/sqrt(fan_in), 1/sqrt(fan_in)), up zero. LOHA: w1_b, w2_b N(0,1), w1_a
 * N(0,0.1^2), w2_a zero; LOKR: w1 (or its pair) and w2_a kaiming_uniform, w2 or w2_b zero (LyCORIS modules/loha.py, lokr.py).
 * ERR_NOTFOUND names a target or rule that matches no module. */
int lora_create(Lora **out, const LoraSpec *spec, const NnModules *modules);
/* Norms of the rows of W + factor D for the magnitudes of fresh parts; W from the set. Parts whose weight the set lacks stay fresh. */
int lora_init_magnitude(Lora *lo, const NnParams *ps);
/* Dropout of the views that lora_nn makes from now on, where trainable; see NnLora. */
void lora_set_dropout(Lora *lo, float dropout, float rank_dropout, float module_dropout, uint64_t seed);
void lora_destroy(Lora *lo);

int lora_count(const Lora *lo);
/* Sorted by path. Borrowed; factors may be written (training). */
LoraPart *lora_at(Lora *lo, int i);
LoraPart *lora_find(Lora *lo, const char *path); /* NULL when absent */
int64_t lora_values(const Lora *lo);             /* number of trainable values */
/* 1 when some part lies under the root ("unet", "text_encoder"). */
int lora_covers(const Lora *lo, const char *root);

/* The view that nn.h takes, with this id. trainable: its factors are listed in NnCtx.trained. Valid until the next call with another
 * id and as long as lo. */
const NnLora *lora_nn(Lora *lo, int id, int trainable);
/* Adds "lora.<id>.<path>.<leaf>" (the adapter's own memory) and "lora.<id>.scale" = 1 to the set. */
int lora_add_params(Lora *lo, int id, NnParams *ps);
/* Changes "lora.<id>.scale" and its version. */
int lora_set_scale(NnParams *ps, int id, float scale);

/* out[out*K] = factor * D as a matrix, summed in double. */
int lora_delta(const LoraPart *p, float *out);
/* |factor D| (Frobenius). */
int lora_norm(const LoraPart *p, double *norm);
/* Puts every part of norm over `limit` back to it (kohya apply_max_norm_regularization: all its factors alike). *scaled: how many. */
int lora_limit_norm(Lora *lo, float limit, int *scaled);

/* W += scale * change in the set (mapped weights are copied first; F32 and BF16, sums in double, rounded once). Modules
 * the set does not have are skipped. Unmerging is reloading. */
int lora_merge(Lora *lo, NnParams *ps, float scale);

typedef enum { LORA_KOHYA, LORA_PEFT } LoraFormat;
/* dtype F32, F16 or BF16. PEFT: LoRA and DoRA have lora_adapter_metadata; of other kinds only the tensors are written. meta: ss_*,
 * modelspec.* and others; the sshs_ hashes are computed and added (kohya). Atomic. */
int lora_save(Lora *lo, const char *path, LoraFormat format, Dtype to, const IoMeta *meta, int nmeta);

#endif
