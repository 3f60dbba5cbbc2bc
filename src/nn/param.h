/* Named parameters of models and adapters: where their values live, which dtype they have, who trains them.
 *
 * A graph only declares parameters (name, dtype, shape); an NnParams holds values for them and may serve many graphs (other
 * batch sizes, training and rendering, encoder and decoder). Names are "<root>.<name in the file>": roots are "unet",
 * "text_encoder", "vae", "clip"; adapters use "lora.<i>.". Dtypes follow ops/op.h: matrices and kernels T, one-dimensional
 * parameters P; parameters that are trained are P in every graph (cast to T inside it) but with NnCtx.train_compute.
 *
 *     NnParams *ps;                                       nn_params_create(&ps)
 *     TRY(nn_params_load(ps, g, "unet", files, names));   // all parameters of g under "unet."
 *     TRY(nn_params_bind(ps, g, exec));
 *     ... optimizer step on p->data, then nn_param_touch(p), nn_params_bind(ps, g, exec)
 *
 * Data are host pointers (the CPU backend's device pointers). Not thread-safe.
 */
#ifndef NN_PARAM_H
#define NN_PARAM_H

#include "graph/exec.h"
#include "graph/graph.h"
#include "io/safetensors.h"

typedef struct {
    char *name;        /* as in the graph */
    Dtype dtype;
    Shape shape;
    void *data;        /* 64-byte aligned where owned; aligned to the dtype where mapped */
    uint64_t version;  /* grows with every change of values: nn_param_touch */
    uint8_t owned;     /* heap memory of the set; else mapped file or the caller's */
    uint8_t frozen;    /* values never change: backends may keep packed copies only */
    uint8_t trainable; /* wanted by the optimizer; implies owned or caller's memory, and not frozen */
} NnParam;

typedef struct NnParams NnParams;

int nn_params_create(NnParams **out);
void nn_params_destroy(NnParams *ps);
int nn_params_count(const NnParams *ps);
/* In order of addition. Borrowed; valid for the life of the set. */
NnParam *nn_params_at(const NnParams *ps, int i);
NnParam *nn_params_find(const NnParams *ps, const char *name); /* NULL when absent */
/* Bytes of memory the set owns (copies, not mapped). */
size_t nn_params_owned_bytes(const NnParams *ps);

/* Adds an owned, zeroed parameter. ERR_BUSY when the name exists. *out (may be NULL) is borrowed. */
int nn_params_add(NnParams *ps, const char *name, Dtype dtype, Shape shape, NnParam **out);
/* Adds a parameter whose memory is the caller's and must outlive the set. */
int nn_params_add_view(NnParams *ps, const char *name, Dtype dtype, Shape shape, void *data, NnParam **out);
/* Makes a frozen parameter writable by copying it to memory of the set (no effect on others). */
int nn_param_own(NnParam *p);
void nn_param_touch(NnParam *p);

/* Other names under which a file may hold the tensor `name` (root removed): writes the k-th, k = 0, 1, ..., into buf and returns
 * 1, or 0 when there are no more. k = 0 should be `name` itself. */
typedef int (*NnNameFn)(const char *name, int k, char *buf, size_t size);

/* For every parameter of `g` under "<root>." that the set does not have: finds it in `model` under one of its names and checks
 * the shape (trailing dimensions of 1 may be missing or extra: [C,C,1,1] serves [C,C]). Where the file's dtype is the wanted one
 * the mapped bytes are used in place (frozen); otherwise a converted copy is made. A parameter already present must have the same
 * dtype and shape. `model` must stay open as long as the set. names may be NULL (only the name itself).
 * ERR_NOTFOUND names the first missing tensor and says how many are missing; ERR_SHAPE: "unet: tensor 'x' has shape [..],
 * expected [..]". */
int nn_params_load(NnParams *ps, const Graph *g, const char *root, IoSafetensors *model, NnNameFn names);

/* Random values for every parameter of `g` under "<root>." that the set does not have, as PyTorch initialises the modules:
 * linear and conv weights and their biases U(-1/sqrt(fan_in), 1/sqrt(fan_in)); norms 1 and 0; embeddings N(0, 0.02^2);
 * class_embedding N(0, 1/C); logit_scale ln(1/0.07). Keyed by (seed, name): independent of the order and of other parameters.
 * The stream is rng_key(seed, RNG_INIT, FNV-1a 64 of the name, 0).
 * zero: names (globs, see nn_glob) to be set to zero instead, e.g. "*conv_out.weight"; may be NULL. */
int nn_params_init(NnParams *ps, const Graph *g, const char *root, uint64_t seed, const char *const *zero, int nzero);
/* Values of one parameter from N(0, std^2) or U(-bound, bound), keyed by (seed, name) alike. */
int nn_param_fill_normal(NnParam *p, uint64_t seed, float std);
int nn_param_fill_uniform(NnParam *p, uint64_t seed, float bound);

/* Writes the parameters under "<root>." (root removed from the names) as safetensors with dtype `to` (F32, F16 or BF16; all of
 * them); atomic. rename maps a name (root removed) to the one written, NULL: unchanged. */
int nn_params_save(const NnParams *ps, const char *root, const char *path, Dtype to, NnNameFn rename, const IoMeta *meta, int nmeta);

/* Marks the parameters trained[0..n) of `g` (NnCtx.trained) as trainable: mapped ones are copied first. */
int nn_params_set_trainable(NnParams *ps, const Graph *g, const OpRef *trained, int n);

/* Binds every parameter of `g` to `e` with its current version. Call again after nn_param_touch; unchanged versions cost little.
 * ERR_NOTFOUND names a parameter of g that a node uses and the set lacks. */
int nn_params_bind(const NnParams *ps, const Graph *g, Exec *e);

/* 1 when `name`, or a part of it that begins after a '.', matches: '*' any characters (also '.'), '?' one; "a|b": either. */
int nn_glob(const char *pattern, const char *name);

#endif
