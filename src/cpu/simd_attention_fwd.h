/* The frame of attention's forward pass, around three functions that the including file defines on floats or on bf16 pairs.
 *
 * Tiled attention with a running maximum and sum ("Online normalizer calculation for softmax", arXiv 1805.02867;
 * "FlashAttention", arXiv 2205.14135): one task is a group of blocks of queries of one head. */
#ifndef CPU_SIMD_ATTENTION_FWD_H
#define CPU_SIMD_ATTENTION_FWD_H

#include "cpu/simd_attention.h"

typedef struct {
    AttentionShape s;
    const void *q, *k, *v;
    void *o;
    float *lse;
    float *work;
    float scale;     /* times log2(e) */
    float top_scale; /* what makes a block's maxima scores in base 2 */
    int causal, bf;
} AttArg;

typedef struct {
    float *qt, *ot;    /* [width][QB] */
    float *top, *sum;  /* [QB] */
    int64_t i0, rows;  /* first query and how many */
    int64_t cols;      /* in whole vectors */
} AttBlock;

typedef struct {
    AttBlock block[ATTENTION_GROUP];
    int blocks;
    float *s, *p;      /* [KB][QB] */
    const float *k, *v;
    float *kf, *vf;    /* room for [KB][padded] each */
    int64_t ldk, ldv;
} AttWork;

/* Fills b->qt from the queries at element `at`. */
static void att_queries(const AttArg *a, const AttBlock *b, int64_t at);
/* Makes `keys` keys and values from element `at` on ready in w. */
static void att_tile(const AttArg *a, AttWork *w, int64_t at, int64_t keys);
/* Adds the tile, whose first key is j0, to the block. */
static void att_block(const AttArg *a, const AttWork *w, const AttBlock *b, int64_t j0, int64_t keys);

static void att_open(const AttArg *a, AttWork *w, int thread, int64_t head, int64_t group)
{
    const AttentionShape *s = &a->s;
    float *f = a->work + thread * attention_floats(s);
    w->s = f;
    w->p = w->s + KB * QB;
    w->kf = w->p + KB * QB;
    w->vf = w->kf + KB * s->padded;
    f = w->vf + KB * s->padded;
    w->blocks = 0;
    for (int64_t n = group * s->group; n < s->blocks && n < (group + 1) * s->group; n++) {
        AttBlock *b = &w->block[w->blocks++];
        b->i0 = n * QB;
        b->rows = s->lq - b->i0 < QB ? s->lq - b->i0 : QB;
        b->cols = cpu_ceil_div(b->rows, VL) * VL;
        b->qt = f;
        b->ot = b->qt + s->width * QB;
        b->top = b->ot + s->width * QB;
        b->sum = b->top + QB;
        f = b->sum + QB;
        att_queries(a, b, (head / s->heads * s->lq + b->i0) * s->channels + head % s->heads * s->width);
        memset(b->ot, 0, (size_t)(s->width * QB) * sizeof(float));
        for (int i = 0; i < QB; i++) {
            b->top[i] = -INFINITY;
            b->sum[i] = 0;
        }
    }
}

static void att_close(const AttArg *a, const AttBlock *b, int64_t head)
{
    const AttentionShape *s = &a->s;
    for (int64_t c = 0; c < b->cols; c += VL) {
        vf inv = vf_set(1.0f) / vf_load(b->sum + c);
        for (int64_t d = 0; d < s->width; d++)
            vf_store(b->ot + d * QB + c, vf_load(b->ot + d * QB + c) * inv);
    }
    attention_untranspose(a->o, (head / s->heads * s->lq + b->i0) * s->channels + head % s->heads * s->width, s->channels,
                          b->ot, b->rows, s->width, a->bf);
    for (int64_t i = 0; i < b->rows; i++)
        a->lse[head * s->lq + b->i0 + i] = LN_2 * (b->top[i] * a->top_scale + log2f(b->sum[i]));
}

static void att_task(void *p, int64_t task, int thread)
{
    const AttArg *a = p;
    const AttentionShape *s = &a->s;
    const int64_t groups = cpu_ceil_div(s->blocks, s->group), head = task / groups;
    const int64_t first = head / s->heads * s->lk * s->channels + head % s->heads * s->width;
    AttWork w;
    att_open(a, &w, thread, head, task % groups);
    const AttBlock *last = &w.block[w.blocks - 1];
    for (int64_t j0 = 0; j0 < s->lk; j0 += KB) {
        int64_t most = attention_keys(s, j0, last->i0 + last->rows - 1, a->causal);
        if (most <= 0)
            break;
        att_tile(a, &w, first + j0 * s->channels, most);
        for (int n = 0; n < w.blocks; n++) {
            const AttBlock *b = &w.block[n];
            int64_t keys = attention_keys(s, j0, b->i0 + b->rows - 1, a->causal);
            if (keys > 0)
                att_block(a, &w, b, j0, keys);
        }
    }
    for (int n = 0; n < w.blocks; n++)
        att_close(a, &w.block[n], head);
}

static int att_run(Backend *be, const OpCall *c, float top_scale)
{
    AttArg a = {.s = attention_shape(&c->in[0].shape, &c->in[1].shape, c->attr->heads), .q = c->in[0].data,
                .k = c->in[1].data, .v = c->in[2].data, .o = c->out[0].data, .lse = c->out[1].data, .work = c->scratch,
                .scale = c->attr->scale * LOG2_E, .top_scale = top_scale, .causal = c->attr->causal,
                .bf = is_bf16(&c->in[0])};
    const AttentionShape *s = &a.s;
    int64_t tasks = s->items * s->heads * cpu_ceil_div(s->blocks, s->group);
    cpu_parallel_tasks(be, tasks, s->items * s->channels * s->lq * s->lk, att_task, &a);
    return 0;
}

#endif
