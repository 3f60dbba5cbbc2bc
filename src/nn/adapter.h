/* Adapters: changes of a module's weight that are small to store, in the graph beside the module's own op.
 *
 * A module with weight W [out,in] or [out,in,kh,kw] gets W + scale * factor * D, K = in*kh*kw:
 *   LORA  D = up down                       down [r,in(,kh,kw)], up [out,r(,1,1)]                   Hu et al. 2021
 *   LOHA  D = (w1_a w1_b) * (w2_a w2_b)     elementwise; w?_a [out,r], w?_b [r,K]                    Hyeon-Woo et al. 2022
 *   LOKR  D = w1 (x) w2                     Kronecker; w1 [a,b] or w1_a [a,r] w1_b [r,b]; w2 [c,d(,kh,kw)] or w2_a [c,r]
 *                                           w2_b [r,d*kh*kw]; out = a*c, in = b*d                    Yeh et al. 2024 (LyCORIS)
 *   FULL  D = diff, of W's shape; of a norm [C]
 * A factor NN_DIFF_B [out] is added to the bias (times scale). A factor NN_MAGNITUDE m [out] makes it DoRA (Liu et al. 2024): the
 * weight becomes W + scale * (diag(m / n) (W + factor D) - W), n the norms of the rows of W + factor D, constant for the gradient
 * (as peft's lora/dora.py). The scale interpolates, as ComfyUI's and LyCORIS' multiplier does. */
#ifndef NN_ADAPTER_H
#define NN_ADAPTER_H

#include "ops/op.h"

enum { NN_PATH_MAX = 256 };

typedef enum { NN_ADAPTER_LORA, NN_ADAPTER_LOHA, NN_ADAPTER_LOKR, NN_ADAPTER_FULL, NN_ADAPTER_KINDS } NnAdapterKind;

/* LoRA's pair is DOWN and UP; LoHa and LoKr share W1.. W2_B. */
typedef enum {
    NN_DOWN,
    NN_UP,
    NN_W1,
    NN_W1_A,
    NN_W1_B,
    NN_W2,
    NN_W2_A,
    NN_W2_B,
    NN_DIFF,
    NN_DIFF_B,
    NN_MAGNITUDE,
    NN_FACTORS
} NnFactor;

/* "LoRA", "LoHa", "LoKr", "full". */
const char *nn_adapter_name(NnAdapterKind kind);
/* The last part of a factor's name, as PEFT calls it: "lora_A.weight", "hada_w1_a", "lokr_w2", "lora_magnitude_vector". */
const char *nn_factor_leaf(NnAdapterKind kind, NnFactor f);

typedef struct {
    const char *path;         /* of the module */
    NnAdapterKind kind;
    Shape shape[NN_FACTORS];  /* ndim 0: absent */
    float factor;             /* alpha / rank */
} NnLoraPart;

/* One adapter. Its graph parameters are "lora.<id>.<path>.<leaf>", P, and "lora.<id>.scale" [1] P, which may be changed between
 * runs. */
typedef struct {
    int id;
    const NnLoraPart *part;   /* sorted by path (strcmp) */
    int count;
    int trainable;            /* its factors go to NnCtx.trained */
    /* Probabilities, used where trainable and NnCtx.position is given: elements of down(x) (of D x for LoHa and LoKr), its channels
     * per item, whole modules per item. */
    float dropout, rank_dropout, module_dropout;
    uint64_t seed;            /* of the draws; see op_dropout. Their key is FNV-1a 64 of "<path>.dropout", ".rank_dropout", ... */
} NnLora;

struct NnCtx;
/* The module of the current path: x w^T + bias (bias may be OP_NONE) with all adapters, + res. pad: of a convolution; NULL: linear. */
OpRef nn_adapted(struct NnCtx *nn, OpRef x, OpRef w, OpRef bias, OpRef res, int stride, const int *pad);
/* Weight (NN_DIFF) or bias (NN_DIFF_B) of the norm of the current path. */
OpRef nn_adapted_vector(struct NnCtx *nn, OpRef v, NnFactor f);

#endif
