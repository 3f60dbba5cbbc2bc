#include <string.h>

#include "cpu/arith.h"

/* Ops that only move elements: they know sizes, not types. */

/* Rows of `bytes` bytes from x (row stride sx) to out (row stride so); zero-filled around when `zero` is set. */
typedef struct {
    const char *x;
    char *out;
    size_t sx, so, bytes, before, after;
    int64_t rows, rows_per_task;
} RowCopy;

static void row_copy_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const RowCopy *a = p;
    int64_t r0 = task * a->rows_per_task, r1 = r0 + a->rows_per_task;
    r1 = r1 < a->rows ? r1 : a->rows;
    for (int64_t r = r0; r < r1; r++) {
        char *out = a->out + (size_t)r * a->so;
        if (a->before)
            memset(out, 0, a->before);
        memcpy(out + a->before, a->x + (size_t)r * a->sx, a->bytes);
        if (a->after)
            memset(out + a->before + a->bytes, 0, a->after);
    }
}

static void row_copy(Backend *be, RowCopy a)
{
    size_t width = a.before + a.bytes + a.after;
    a.rows_per_task = width >= 65536 ? 1 : (int64_t)(65536 / (width ? width : 1));
    cpu_parallel_tasks(be, cpu_ceil_div(a.rows, a.rows_per_task), a.rows * (int64_t)width * 2, row_copy_task, &a);
}

static int run_concat(Backend *be, const OpCall *c)
{
    size_t e = dtype_size(c->out[0].dtype), so = (size_t)shape_last(&c->out[0].shape) * e, at = 0;
    for (int i = 0; i < c->nin; i++) {
        size_t w = (size_t)shape_last(&c->in[i].shape) * e;
        row_copy(be, (RowCopy){.x = c->in[i].data, .out = (char *)c->out[0].data + at, .sx = w, .so = so, .bytes = w,
                               .rows = shape_rows(&c->out[0].shape)});
        at += w;
    }
    return 0;
}

static int run_slice(Backend *be, const OpCall *c)
{
    size_t e = dtype_size(c->in[0].dtype), sx = (size_t)shape_last(&c->in[0].shape) * e;
    size_t w = (size_t)c->attr->count * e;
    row_copy(be, (RowCopy){.x = (const char *)c->in[0].data + (size_t)c->attr->begin * e, .out = c->out[0].data, .sx = sx,
                           .so = w, .bytes = w, .rows = shape_rows(&c->in[0].shape)});
    return 0;
}

static int run_slice_bwd(Backend *be, const OpCall *c)
{
    size_t e = dtype_size(c->in[0].dtype), so = (size_t)shape_last(&c->out[0].shape) * e;
    size_t w = (size_t)shape_last(&c->in[0].shape) * e, before = (size_t)c->attr->begin * e;
    row_copy(be, (RowCopy){.x = c->in[0].data, .out = c->out[0].data, .sx = w, .so = so, .bytes = w, .before = before,
                           .after = so - before - w, .rows = shape_rows(&c->out[0].shape)});
    return 0;
}

static int run_zero(Backend *be, const OpCall *c)
{
    (void)be;
    memset(c->out[0].data, 0, (size_t)shape_count(&c->out[0].shape) * dtype_size(c->out[0].dtype));
    return 0;
}

/* Per item, out[cols, rows] = x[rows, cols] transposed, in square tiles. */
typedef struct {
    const char *x;
    char *out;
    int64_t rows, cols, tiles;
    size_t size;
} Transpose;

enum { TILE = 32 };

#define TRANSPOSE_TILE(T)                                                 \
    do {                                                                  \
        const T *x = (const T *)(const void *)from;                       \
        T *out = (T *)(void *)to;                                         \
        for (int64_t j = j0; j < j1; j++)                                 \
            for (int64_t i = i0; i < i1; i++)                             \
                out[j * a->rows + i] = x[i * a->cols + j];                \
    } while (0)

static void transpose_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const Transpose *a = p;
    int64_t item = task / a->tiles, i0 = task % a->tiles * TILE, i1 = i0 + TILE < a->rows ? i0 + TILE : a->rows;
    const char *from = a->x + (size_t)(item * a->rows * a->cols) * a->size;
    char *to = a->out + (size_t)(item * a->rows * a->cols) * a->size;
    for (int64_t j0 = 0; j0 < a->cols; j0 += TILE) {
        int64_t j1 = j0 + TILE < a->cols ? j0 + TILE : a->cols;
        if (a->size == 4)
            TRANSPOSE_TILE(uint32_t);
        else if (a->size == 2)
            TRANSPOSE_TILE(uint16_t);
        else
            TRANSPOSE_TILE(uint64_t);
    }
}

static int transpose(Backend *be, const OpCall *c, int64_t rows, int64_t cols)
{
    size_t size = dtype_size(c->in[0].dtype);
    if (size < 2)
        return cpu_op_unsupported(c, c->in[0].dtype);
    int64_t items = c->in[0].shape.dim[0], tiles = cpu_ceil_div(rows, TILE);
    Transpose a = {c->in[0].data, c->out[0].data, rows, cols, tiles, size};
    cpu_parallel_tasks(be, items * tiles, items * rows * cols * (int64_t)size * 2, transpose_task, &a);
    return 0;
}

static int run_nchw_to_nhwc(Backend *be, const OpCall *c)
{
    const int64_t *d = c->in[0].shape.dim;
    return transpose(be, c, d[1], d[2] * d[3]);
}

static int run_nhwc_to_nchw(Backend *be, const OpCall *c)
{
    const int64_t *d = c->in[0].shape.dim;
    return transpose(be, c, d[1] * d[2], d[3]);
}

void cpu_move_register(Backend *be)
{
    be->op[OP_CONCAT].run = run_concat;
    be->op[OP_SLICE].run = run_slice;
    be->op[OP_SLICE_BWD].run = run_slice_bwd;
    be->op[OP_ZERO].run = run_zero;
    be->op[OP_NCHW_TO_NHWC].run = run_nchw_to_nhwc;
    be->op[OP_NHWC_TO_NCHW].run = run_nhwc_to_nchw;
}
