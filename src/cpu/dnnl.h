/* oneDNN behind linear.c and conv*.c: primitives for one thread and one tile, packed weights, the tile loop.
 *
 * Every primitive is created for one thread. Tiles are cut by shape alone and run in cpu_parallel_tasks, so results
 * do not depend on the number of threads. A primitive is shared by all nodes of the backend that need the same tile,
 * together with its argument slots: a backend runs one op at a time. */
#ifndef CPU_DNNL_H
#define CPU_DNNL_H

#include <dnnl.h>

#include "cpu/kernel.h"

typedef struct CpuDnnl CpuDnnl;

typedef enum { CPU_TILE_MATMUL, CPU_TILE_CONV, CPU_TILE_CONV_BWD_X, CPU_TILE_CONV_BWD_W, CPU_TILE_REORDER } CpuTileKind;

/* What a tile computes. All fields are int64_t so that keys compare as bytes; zero the struct first.
 * MATMUL: c[m,n] = a[m,k] b (+ bias[n]) (+ c). b is [k,n], or [n,k] with trans_b. a, b, c are dense but for ldc.
 * CONV*: NHWC tile of `items` images; the weight is packed in the primitive's own format.
 * REORDER: weights between OIHW (dense) and the format of the tile `format`; to_plain: format -> OIHW. */
typedef struct {
    int64_t kind;
    int64_t a, b, c;             /* Dtype of src, weights, dst (for gradients: of the same tensors) */
    int64_t bias, sum;           /* add bias (F32); add what dst holds */
    int64_t m, k, n, trans_b;
    int64_t items, ih, iw, ci, oh, ow, co, kh, kw, stride, top, left, bottom, right;
    int64_t format;              /* (intptr_t) of the CpuTile whose weight format is wanted; 0: any */
    int64_t to_plain;
} CpuTileKey;

typedef struct {
    CpuTileKey key;
    dnnl_primitive_t prim;
    dnnl_stream_t stream;        /* borrowed */
    dnnl_memory_desc_t weight;   /* packed weight format (conv) */
    size_t weight_bytes, workspace; /* workspace: oneDNN's scratchpad, per thread */
    int row_free;                /* matmul: a row's bits do not depend on how many rows the tile has */
    dnnl_memory_t *mem;          /* [threads][CPU_TILE_MEM] */
} CpuTile;

enum { CPU_TILE_MEM = 5 };

/* The backend's oneDNN state, made on first use. */
int cpu_dnnl_get(Backend *be, CpuDnnl **out);
/* Finds or makes the tile; borrowed from the backend. ERR_BACKEND when oneDNN refuses. Not thread-safe. */
int cpu_tile_get(Backend *be, const CpuTileKey *key, CpuTile **out);
/* Runs a tile on thread `thread`. Operands by role: a src, b weights, c dst; conv gradients: BWD_X a = dy, c = dx;
 * BWD_W a = x, b = dy, c = dw (packed). REORDER: a from, c to. workspace: tile->workspace bytes, 64-byte aligned. */
int cpu_tile_run(const CpuTile *t, int thread, const void *a, const void *b, void *c, const void *bias, void *workspace);

/* Like cpu_parallel_tasks, with oneDNN held to one thread per task. fn returns 0 or ERR_*; any failure is returned. */
typedef int (*CpuTileTask)(void *ctx, int64_t task, int thread);
int cpu_tile_loop(const Backend *be, int64_t tasks, double flops, CpuTileTask fn, void *ctx);

/* A packed copy of a weight, shared by the nodes of the backend that use the same weight in the same format. */
typedef struct CpuPacked {
    const void *source;          /* NULL: the weight is an activation, packed on every run by its only user */
    uint64_t version;
    const CpuTile *reorder;
    void *data;
    size_t bytes;
    int users;
    struct CpuPacked *next;
} CpuPacked;

/* Packed copy of w ([Co,Ci,kh,kw], dtype of the tile's weight or bf16 for a float tile) for tile t. Packs at once when
 * w->data is known. frozen: clean file pages behind w are dropped from memory afterwards. */
int cpu_packed_get(Backend *be, const CpuTile *t, const OpView *w, CpuPacked **out);
/* Packs again where w's address or version changed. */
int cpu_packed_refresh(Backend *be, CpuPacked *p, const OpView *w);
void cpu_packed_put(Backend *be, CpuPacked *p);

/* Carves 64-byte aligned pieces out of a workspace; with base NULL it only counts. */
typedef struct {
    char *base;
    size_t used;
} CpuCarve;
static inline void *cpu_carve(CpuCarve *c, size_t bytes)
{
    void *p = c->base ? c->base + c->used : NULL;
    c->used += (bytes + 63) / 64 * 64;
    return p;
}

/* 1 where oneDNN computes in bf16 on this machine; else bf16 ops go through float copies. */
int cpu_dnnl_bf16(const Backend *be);

#endif
