/* Arithmetic of whole adapters: several into one, other ranks, the difference of two models as an adapter, an adapter into a model. */
#ifndef MODELS_LORA_OPS_H
#define MODELS_LORA_OPS_H

#include "models/lora.h"

/* How many singular values stay, at most `rank` (0: no limit) and at least one (kohya networks/resize_lora.py): */
typedef enum {
    LORA_KEEP_FIXED,      /* the rank */
    LORA_KEEP_RATIO,      /* those over the largest / value */
    LORA_KEEP_SUM,        /* until their sum reaches value * the whole sum */
    LORA_KEEP_FROBENIUS   /* until their root sum of squares reaches value * the norm */
} LoraKeepRule;
typedef struct {
    int rank;
    int conv_rank;        /* for kernels larger than 1x1; 0: rank */
    LoraKeepRule rule;
    double value;
} LoraKeep;

/* A LoRA of other ranks that is nearest to every module's change (truncated SVD; Eckart and Young 1936). LoHa, LoKr and full
 * differences become LoRA; changes of biases and norms, and DoRA's magnitudes, stay. alpha becomes the rank. error (may be NULL):
 * |lost| / |whole| over all modules. */
int lora_resize(Lora **out, Lora *in, const LoraKeep *keep, double *error);

/* sum of scale[i] * in[i], exactly: pairs are put side by side (the rank is the sum of ranks), other kinds become full differences.
 * ERR_UNSUPPORTED for DoRA, whose change depends on the model; ERR_SHAPE where shapes differ. */
int lora_combine(Lora **out, Lora *const *in, const float *scale, int n);

typedef struct {
    LoraKeep keep;
    double min_diff;              /* modules whose largest difference is below it are left out */
    double clamp;                 /* quantile of the factors' magnitudes they are clamped to (kohya clamp_quantile); 1: none */
    const char *const *targets;   /* globs; NULL: all */
    int ntargets;
} LoraExtract;
/* tuned - base as a LoRA, for the modules under `root`; adds to *out (made when NULL). names: as for nn_params_load, or NULL. */
int lora_extract(Lora **out, IoSafetensors *base, IoSafetensors *tuned, const char *root, const NnModules *mods, NnNameFn names,
                 const LoraExtract *how, double *error);

/* Writes the weights of `file` with adapters merged into the modules under `root`, in the dtype of each tensor (F32, BF16, F16). */
int lora_merge_file(Lora *const *lora, const float *scale, int n, IoSafetensors *file, const char *root, const char *path, int *merged);

#endif
