/* The frame of attention's backward pass, around the block that the including file defines on floats or on bf16 pairs.
 *
 * FlashAttention's backward pass (arXiv 2205.14135, algorithm 4): one task is one span of keys of one head. For each block
 * of queries and each tile of keys the weights are computed again from lse; dk and dv gather over blocks, dq over tiles and
 * then over spans, all in order. */
#ifndef CPU_SIMD_ATTENTION_BWD_H
#define CPU_SIMD_ATTENTION_BWD_H

#include "cpu/simd_attention.h"

typedef struct {
    AttentionShape s;
    const void *dout, *q, *k, *v, *o;
    const float *lse;
    void *dq, *dk, *dv;
    AttentionSpans spans;
    float *part; /* of dq: [heads][spans][blocks][width][QB] */
    float *work;
    float scale;
    int causal, bf;
} BackArg;

typedef struct {
    float *qt, *dot;            /* [width][QB] */
    float *q, *dout;            /* [QB][padded] */
    float *p, *ds;              /* [KB][QB] */
    float *kf, *vf;             /* [KB][padded] */
    float *pairs;               /* [KB/2][QB] */
    float *lse, *delta;         /* [QB] */
    float *dk, *dv;             /* [span][padded] */
    float *dqt;                 /* this block's part of dq, [width][QB] */
    int64_t cols;
} BackWork;

static BackWork back_work(const BackArg *a, int thread)
{
    const AttentionShape *s = &a->s;
    BackWork w;
    float *f = a->work + thread * attention_bwd_floats(s);
    float **part[] = {&w.qt, &w.dot,   &w.q,   &w.dout,  &w.p,  &w.ds, &w.kf,
                      &w.vf, &w.pairs, &w.lse, &w.delta, &w.dk, &w.dv};
    const int64_t t = s->width * QB, r = QB * s->padded, tile = KB * QB, k = KB * s->padded, all = a->spans.keys * s->padded;
    const int64_t size[] = {t, t, r, r, tile, tile, k, k, tile / 2, QB, QB, all, all};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        *part[i] = f;
        f += size[i];
    }
    w.dqt = NULL;
    w.cols = QB;
    return w;
}

/* delta[i] = sum over d of do[i][d] o[i][d]; lse in base 2. Unused lanes: 0. */
static void back_rows(const BackArg *a, const BackWork *w, int64_t at, int64_t lse_at, int64_t rows)
{
    const AttentionShape *s = &a->s;
    for (int64_t i = 0; i < QB; i++) {
        vf sum = vf_zero();
        for (int64_t d = 0; i < rows && d < s->width; d += VL) {
            const int n = lanes_at(d, s->width);
            sum += vt_load(a->dout, at + i * s->channels + d, n, a->bf) * vt_load(a->o, at + i * s->channels + d, n, a->bf);
        }
        w->delta[i] = vf_sum(sum);
        w->lse[i] = i < rows ? a->lse[lse_at + i] * LOG2_E : 0;
    }
}

static float *back_part(const BackArg *a, int64_t head, int64_t span, int64_t block)
{
    return a->part + ((head * a->spans.count + span) * a->s.blocks + block) * a->s.width * QB;
}

/* Adds block `block` of queries into the tiles of keys begin..end: w->dqt, w->dk, w->dv. */
static void back_block(const BackArg *a, BackWork *w, int64_t head, int64_t block, int64_t begin, int64_t end);

static void back_task(void *p, int64_t task, int thread)
{
    const BackArg *a = p;
    const AttentionShape *s = &a->s;
    const int64_t head = task / a->spans.count, span = task % a->spans.count, begin = span * a->spans.keys;
    const int64_t end = begin + a->spans.keys < s->lk ? begin + a->spans.keys : s->lk;
    BackWork w = back_work(a, thread);
    memset(w.dk, 0, (size_t)(2 * a->spans.keys * s->padded) * sizeof(float));
    for (int64_t block = 0; block < s->blocks; block++) {
        w.dqt = back_part(a, head, span, block);
        back_block(a, &w, head, block, begin, end);
    }
    for (int64_t j = begin; j < end; j++)
        for (int64_t d = 0; d < s->width; d += VL) {
            int64_t to = (head / s->heads * s->lk + j) * s->channels + head % s->heads * s->width + d;
            int64_t from = (j - begin) * s->padded + d;
            vt_store(a->dk, to, vf_load(w.dk + from), lanes_at(d, s->width), a->bf);
            vt_store(a->dv, to, vf_load(w.dv + from), lanes_at(d, s->width), a->bf);
        }
}

static void back_dq_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const BackArg *a = p;
    const AttentionShape *s = &a->s;
    const int64_t head = task / s->blocks, block = task % s->blocks, i0 = block * QB;
    const int64_t rows = s->lq - i0 < QB ? s->lq - i0 : QB;
    float *sum = back_part(a, head, 0, block);
    for (int64_t span = 1; span < a->spans.count; span++) {
        const float *x = back_part(a, head, span, block);
        for (int64_t i = 0; i < s->width * QB; i += VL)
            vf_store(sum + i, vf_load(sum + i) + vf_load(x + i));
    }
    attention_untranspose(a->dq, (head / s->heads * s->lq + i0) * s->channels + head % s->heads * s->width, s->channels, sum,
                          rows, s->width, a->bf);
}

static int back_run(Backend *be, const OpCall *c)
{
    BackArg a = {.s = attention_shape(&c->in[1].shape, &c->in[2].shape, c->attr->heads), .dout = c->in[0].data,
                 .q = c->in[1].data, .k = c->in[2].data, .v = c->in[3].data, .o = c->in[4].data, .lse = c->in[5].data,
                 .dq = c->out[0].data, .dk = c->out[1].data, .dv = c->out[2].data,
                 .scale = c->attr->scale, .causal = c->attr->causal, .bf = is_bf16(&c->in[1])};
    const AttentionShape *s = &a.s;
    const int64_t heads = s->items * s->heads;
    a.spans = attention_spans(s);
    a.part = c->scratch;
    a.work = a.part + attention_dq_floats(s);
    cpu_parallel_tasks(be, heads * a.spans.count, s->items * s->channels * s->lq * s->lk * 2, back_task, &a);
    cpu_parallel_tasks(be, heads * s->blocks, heads * a.spans.count * s->blocks * s->width * QB * 8, back_dq_task, &a);
    return 0;
}

#endif
