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

typedef struct {
    char *path;        /* full module path, "unet.mid_block...to_q" */
    Shape down, up;    /* see NnLoraPart */
    float *a, *b;      /* down and up factors */
    int rank;
    float alpha;       /* the factor is alpha / rank */
} LoraPart;

typedef struct Lora Lora;

/* Reads a file; names are resolved against `modules`. ERR_UNSUPPORTED for other kinds (LoHa, LoKr, DoRA, ...), ERR_NOTFOUND for a
 * module that the base model lacks, ERR_SHAPE; messages name the file and the tensor. */
int lora_load(Lora **out, const char *path, const NnModules *modules);
/* The same from bytes in memory; `name` stands for the file in messages. */
int lora_load_memory(Lora **out, const void *data, size_t size, const char *name, const NnModules *modules);

typedef struct {
    int rank;
    float alpha;                  /* <= 0: rank */
    int conv_rank;                /* for kernels larger than 1x1; 0: rank */
    float conv_alpha;             /* <= 0: alpha where conv_rank is 0, else conv_rank */
    const char *const *targets;   /* globs over module paths, see nn_glob: "attn*.to_q", "*ff.net*", "text_encoder.*q_proj" */
    int ntargets;
    uint64_t seed;
} LoraSpec;
/* Fresh adapter: down kaiming_uniform(a = sqrt 5), that is U(-1/sqrt(fan_in), 1/sqrt(fan_in)), keyed by (seed, path); up zero.
 * ERR_NOTFOUND names a target that matches no module. */
int lora_create(Lora **out, const LoraSpec *spec, const NnModules *modules);
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
/* Adds "lora.<id>.<path>.lora_A.weight", ".lora_B.weight" (the adapter's own memory) and "lora.<id>.scale" = 1 to the set. */
int lora_add_params(Lora *lo, int id, NnParams *ps);
/* Changes "lora.<id>.scale" and its version. */
int lora_set_scale(NnParams *ps, int id, float scale);

/* W += scale * alpha/rank * B A in the set (mapped weights are copied first; F32 and BF16, sums in double, rounded once). Modules
 * the set does not have are skipped. Unmerging is reloading. */
int lora_merge(Lora *lo, NnParams *ps, float scale);

typedef enum { LORA_KOHYA, LORA_PEFT } LoraFormat;
/* dtype F32, F16 or BF16. meta: ss_*, modelspec.* and others; the sshs_ hashes are computed and added (kohya); PEFT gets
 * lora_adapter_metadata. Atomic. */
int lora_save(Lora *lo, const char *path, LoraFormat format, Dtype to, const IoMeta *meta, int nmeta);

#endif
