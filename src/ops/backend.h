/* A backend: how each op runs on a device. Chosen once at start; implemented by cpu/ and cuda/.
 *
 * The executor calls, per node: `scratch` while planning (bytes of workspace, from shapes alone), `prepare` once after the
 * parameters are bound, `run` many times, `release` at the end. `run` allocates nothing.
 */
#ifndef OPS_BACKEND_H
#define OPS_BACKEND_H

#include "ops/op.h"

/* A tensor at run time. `data` is a device pointer, 64-byte aligned for activations (parameters mapped from a file may
 * have the alignment of their dtype only). */
typedef struct {
    void *data;
    Dtype dtype;
    Shape shape;
    uint64_t version; /* parameters: grows whenever the values change (optimizer step, other LoRA). 0 for activations */
    uint8_t frozen;   /* parameters: values never change while bound; packed copies may replace mapped pages */
} OpView;

typedef struct {
    OpKind kind;
    const OpAttr *attr;
    const OpView *in;
    OpView *out;
    int nin, nout;
    void *scratch;        /* 64-byte aligned, the bytes that `scratch` asked for */
    void *state;          /* what `prepare` made for this node; NULL without prepare */
} OpCall;

typedef struct Backend Backend;
typedef struct BackendTrain BackendTrain;
typedef struct BackendPeers BackendPeers;

typedef struct {
    size_t (*scratch)(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout); /* NULL: none */
    /* call->in[i].data is valid for parameters and NULL for activations. NULL: nothing to prepare. */
    int (*prepare)(Backend *be, const OpCall *call, void **state);
    int (*run)(Backend *be, const OpCall *call);
    void (*release)(Backend *be, void *state);
} BackendOp;

/* Rewrites by graph_optimize that not every backend gains from; bits of Backend.fuses. */
enum {
    BACKEND_FUSE_UPSAMPLE = 1, /* UPSAMPLE_NEAREST into the convolutions that read it (attr.up) */
    BACKEND_FUSE_LOW_RANK = 2, /* LINEAR and the low-rank path beside it into LINEAR_LOW, likewise LINEAR_BWD_X */
    BACKEND_FUSE_BIAS = 4      /* the bias of a LINEAR into the GEGLU that reads it */
};

struct Backend {
    const char *name;             /* "cpu", "cuda" */
    const char *label;            /* with what its bits depend on, for records: "cpu-avx512", "cuda" */
    BackendOp op[OP_COUNT];       /* run == NULL: unsupported */
    unsigned fuses;               /* BACKEND_FUSE_* */
    int threads;                  /* CPU: OpenMP threads used */
    void *impl;                   /* the backend's own state */
    int (*alloc)(Backend *be, void **out, size_t bytes);   /* device memory, 64-byte aligned (2 MiB pages on CPU) */
    void (*free)(Backend *be, void *p, size_t bytes);
    /* Enqueued before what is called later; host_src is the caller's again at once. */
    int (*upload)(Backend *be, void *dst, const void *host_src, size_t bytes);
    int (*download)(Backend *be, void *host_dst, const void *src, size_t bytes);
    /* x[n] of t (F32, BF16), -1..1, as pixels on the host: the bits of io_image_from_hwc. NULL: the caller does that. */
    int (*download_pixels)(Backend *be, uint8_t *host, const void *x, Dtype t, int64_t n);
    /* Pixels to x[n] of t, -1..1: the bits of pixel_to_unit. NULL: the caller does that. */
    int (*upload_pixels)(Backend *be, void *x, Dtype t, const uint8_t *host, int64_t n);
    int (*sync)(Backend *be);
    int (*memory)(Backend *be, size_t *free, size_t *total); /* of the device, in bytes; NULL: device memory is the host's */
    /* Parameters lie in host memory. acquire gives their address on the device: a copy that is shared by all who acquired the
     * same array and written again when the version has grown; drop undoes one acquire. NULL: used where they are. */
    int (*acquire)(Backend *be, const OpView *host, void **device);
    void (*drop)(Backend *be, const OpView *host);
    const BackendTrain *train;    /* ops/train.h; NULL: training keeps its state in host memory */
    const BackendPeers *peers;    /* ops/peers.h; NULL: sums over ranks go through host memory */
    /* Recording: what `run` enqueues between begin and end is kept, with every address and size in it, and not executed; *work is
     * NULL and the code negative where something in between cannot be kept. replay enqueues it all. NULL (all four): not possible. */
    int (*record_begin)(Backend *be);
    int (*record_end)(Backend *be, void **work);
    int (*replay)(Backend *be, void *work);
    void (*forget)(Backend *be, void *work);
    void (*destroy)(Backend *be);
};

static inline void backend_destroy(Backend *be)
{
    if (be)
        be->destroy(be);
}

#endif
