/* Shapes and workspace of attention, shared by attention.c and the vector code. */
#ifndef CPU_ATTENTION_H
#define CPU_ATTENTION_H

#include "cpu/kernel.h"

enum { ATTENTION_QUERIES = 64, ATTENTION_KEYS = 96, ATTENTION_GROUP = 4, ATTENTION_PAD = 16 };

/* q [items, lq, heads * width], k and v [items, lk, heads * width]. */
typedef struct {
    int64_t items, heads, width, lq, lk;
    int64_t channels; /* heads * width */
    int64_t blocks;   /* of ATTENTION_QUERIES queries */
    int64_t group;    /* forward: blocks that go through the keys together, so that a tile of keys is fetched once for all */
    int64_t padded;   /* width in whole vectors of any instruction set */
} AttentionShape;

static inline AttentionShape attention_shape(const Shape *q, const Shape *k, int32_t heads)
{
    AttentionShape s = {q->dim[0], heads, q->dim[2] / heads, q->dim[1], k->dim[1], q->dim[2], 0, 0, 0};
    s.blocks = cpu_ceil_div(s.lq, ATTENTION_QUERIES);
    s.padded = cpu_ceil_div(s.width, ATTENTION_PAD) * ATTENTION_PAD;
    s.group = s.blocks >= 4 * ATTENTION_GROUP && s.padded <= 160 ? ATTENTION_GROUP : 1;
    return s;
}

/* Floats per thread: per block of a group its queries and output, transposed, maxima and sums; then scores, weights, keys
 * and values of a tile. */
static inline int64_t attention_floats(const AttentionShape *s)
{
    return s->group * (2 * s->width * ATTENTION_QUERIES + 2 * ATTENTION_QUERIES) + 2 * ATTENTION_KEYS * ATTENTION_QUERIES +
           2 * ATTENTION_KEYS * s->padded;
}

/* Backward cuts the keys into at most 4 spans, each small enough that its dk and dv stay in a core's cache. A span of a head
 * is a task; each leaves its own part of dq, and the parts are added in span order. */
typedef struct {
    int64_t keys;  /* per span, a multiple of ATTENTION_KEYS */
    int64_t count;
} AttentionSpans;

static inline AttentionSpans attention_spans(const AttentionShape *s)
{
    int64_t fit = 65536 / s->padded, count = cpu_ceil_div(s->lk, fit < ATTENTION_KEYS ? ATTENTION_KEYS : fit);
    count = count > 4 ? 4 : count;
    int64_t keys = cpu_ceil_div(cpu_ceil_div(s->lk, count), ATTENTION_KEYS) * ATTENTION_KEYS;
    return (AttentionSpans){keys, cpu_ceil_div(s->lk, keys)};
}

/* Floats per thread: q and do transposed and by rows; scores two and a half times; keys and values; dk and dv of a span. */
static inline int64_t attention_bwd_floats(const AttentionShape *s)
{
    return 2 * s->width * ATTENTION_QUERIES + 2 * ATTENTION_QUERIES * s->padded +
           5 * ATTENTION_KEYS * ATTENTION_QUERIES / 2 + 2 * ATTENTION_KEYS * s->padded + 2 * ATTENTION_QUERIES +
           2 * attention_spans(s).keys * s->padded;
}

/* Floats of the parts of dq: [items * heads][spans][blocks][width][ATTENTION_QUERIES]. */
static inline int64_t attention_dq_floats(const AttentionShape *s)
{
    return s->items * s->heads * attention_spans(s).count * s->blocks * s->width * ATTENTION_QUERIES;
}

/* Products of bf16 pairs (attention_bf16*.simd.c): pairs must not straddle heads. */
static inline int attention_in_pairs(const Backend *be, const OpView *q, const OpAttr *attr)
{
    return ((const CpuState *)be->impl)->bf16 && q->dtype == DTYPE_BF16 && q->shape.dim[2] / attr->heads % 2 == 0 &&
           attr->scale > 0;
}
int cpu_attention_bf16(Backend *be, const OpCall *c);
int cpu_attention_bwd_bf16(Backend *be, const OpCall *c);

#endif
