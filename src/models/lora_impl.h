/* Private to lora*.c. */
#ifndef MODELS_LORA_IMPL_H
#define MODELS_LORA_IMPL_H

#include "models/lora.h"

struct Lora {
    LoraPart *part;
    int count, cap;
    NnLoraPart *view;
    NnLora nn;
};

int lora_alloc(Lora **out);
/* Adds an empty part for the module; *out is borrowed until the next call. */
int lora_add(Lora *lo, const NnModule *m, LoraPart **out);
/* Shape and zeroed memory of one factor. */
int lora_set_factor(LoraPart *p, NnFactor f, Shape shape);
/* A LoRA pair of this rank for the module's weight. */
void lora_shapes(const Shape *weight, int rank, Shape *down, Shape *up);
int lora_set_pair(LoraPart *p, int rank);
/* Sorted by path; to be called once all parts are there. */
void lora_sort(Lora *lo);

/* ---- names of files (lora_names.c) ---- */
typedef enum {
    LORA_LEAF_ALPHA = NN_FACTORS, /* below: NnFactor */
    LORA_LEAF_MID,                /* lora_mid.weight */
    LORA_LEAF_T1,                 /* hada_t1 */
    LORA_LEAF_T2,                 /* hada_t2, lokr_t2 */
    LORA_LEAF_SCALAR,
    LORA_LEAVES
} LoraLeaf;
/* Length of the module part of a tensor's name and what the rest is; -1 when it ends like no adapter tensor. kind: NN_ADAPTER_KINDS
 * where the leaf does not tell. */
int lora_split_name(const char *name, int *leaf, NnAdapterKind *kind);
/* Kind of adapter, by name, that is not supported; NULL for others. */
const char *lora_foreign_kind(const char *name);
/* The module that the first part of a name stands for; NULL when there is none. */
const NnModule *lora_resolve(const NnModules *mods, const char *stem);
/* The path that lora_file_modules gives it. */
void lora_stem_path(char *out, size_t size, const char *stem);

#endif
