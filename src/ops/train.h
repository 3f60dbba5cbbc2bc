/* Training steps on a device: what a backend offers (Backend.train) so that trained values, sums of gradients and the optimizer's arrays
 * stay in its memory from step to step. Addresses are the backend's (Backend.alloc) where nothing else is said. Calls are enqueued in
 * order and return at once, but those with a result on the host. Each gives the bits of the host function that it names; AdamW those of
 * its portable form (ISA base).
 */
#ifndef OPS_TRAIN_H
#define OPS_TRAIN_H

#include "base/rng.h"
#include "ops/backend.h"
#include "ops/optim.h"

/* A tensor in the flat arrays. Places are multiples of 16. */
typedef struct {
    int64_t count, at;    /* values; place in grad, sum, average, and in p where that is a flat array of floats */
    int64_t state;        /* place in the optimizer's arrays */
    int64_t block;        /* 8-bit moments: place in the arrays of maxima */
    int64_t place;        /* of its values in p, in bytes: a multiple of 32 */
    Dtype dtype;          /* of its values: F32 or BF16 */
} OptimSlot;

typedef struct {
    float lr, weight_decay;
    RngKey round;         /* BF16: the stream of cpu_optim_round_bf16 in this step */
} OptimRate;

/* Tensors that one launch works on. */
typedef struct OptimTable OptimTable;

typedef enum { OPTIM_ADAMW, OPTIM_ADAMW8, OPTIM_LION, OPTIM_SCHEDULEFREE } OptimKind;

typedef struct {
    OptimKind kind;
    void *p;              /* BF16 values are rounded by cpu_optim_round_bf16 */
    void *array[4];       /* the arguments between p and grad of cpu_optim_<kind>, in their order */
    const float *grad;
    const OptimRate *rate; /* [tensors of the table], on the host: in place of lr and weight_decay of a */
    OptimAdamw a;
    float weight;         /* OPTIM_SCHEDULEFREE */
} OptimStep;

typedef struct {
    float *p, *s, *m, *v;
    const float *p0, *grad;
} OptimFlat;

/* How one sample of a diffusion step is noised (train/noise.h): x_t = a x_0 + s (noise + gamma extra); strength: of the noise's offset. */
typedef struct {
    RngKey latent, noise, offset, extra;
    double a, s, strength, gamma;
} NoiseSample;
typedef enum { NOISE_TARGET_NOISE, NOISE_TARGET_V, NOISE_TARGET_SAMPLE, NOISE_TARGET_FLOW } NoiseTarget;
enum { NOISE_SAMPLES = 256 };

typedef struct {
    const NoiseSample *sample; /* [items], on the host; at most NOISE_SAMPLES */
    const float *moments;      /* [items][count / c][2 c]: mean, log-variance */
    void *room;                /* items * sizeof(NoiseSample) bytes of device memory */
    void *x, *target;          /* [items][count] of `dtype` */
    Dtype dtype;
    int64_t items, count, c;
    float shift, scaling;
    NoiseTarget kind;
} NoiseStep;

struct BackendTrain {
    /* From now on the parameter at host->data lies at `device`, whatever its version is: acquire gives this address and copies nothing.
     * `device` stays the caller's. Undone by drop. Before anything acquires the parameter. */
    int (*adopt)(Backend *be, const OpView *host, void *device);
    int (*clear)(Backend *be, void *p, size_t bytes);
    int (*table_create)(Backend *be, OptimTable **out, const OptimSlot *slot, int n);
    void (*table_destroy)(Backend *be, OptimTable *t); /* NULL is fine */
    /* exact_add of tensors first .. first + count - 1; grads: the addresses of all tensors' gradients, an array on the device. Sums beyond
     * +-limit are counted where this is the last addition. */
    int (*exact_add)(Backend *be, OptimTable *t, int first, int count, const float *const *grads, int64_t *sum, int64_t limit);
    /* What was left out since the last call, of each tensor (left_out[n], host), and the sums that were too large. */
    int (*exact_counts)(Backend *be, OptimTable *t, int64_t *left_out, int64_t *large);
    int (*exact_to_float)(Backend *be, float *out, const int64_t *sum, int64_t n, double scale);
    /* cpu_optim_sumsq of the first n values of the flat arrays of t. */
    int (*sumsq)(Backend *be, OptimTable *t, const float *x, int64_t n, double *out);
    int (*step)(Backend *be, OptimTable *t, const OptimStep *s);
    /* cpu_optim_adafactor of one tensor of t. grad becomes the update. */
    int (*adafactor)(Backend *be, OptimTable *t, float *p, float *row, float *col, float *v, float *m, float *grad, const Shape *shape,
                     const OptimAdafactor *o);
    /* cpu_optim_prodigy of the first n values of the flat arrays of t. */
    int (*prodigy)(Backend *be, OptimTable *t, const OptimFlat *f, int64_t n, const OptimAdamw *o, OptimProdigy *d);
    /* average += rate (p - average) for all tensors of t. */
    int (*ema)(Backend *be, OptimTable *t, float *average, const void *p, float rate);
    /* x and target of a micro-batch. */
    int (*noise)(Backend *be, const NoiseStep *n);
};

#endif
