#include "cpu/simd_attention.h"

/* Tiled attention with a running maximum and sum ("Online normalizer calculation for softmax", arXiv 1805.02867;
 * "FlashAttention", arXiv 2205.14135): one task is one block of queries of one head. */
typedef struct {
    AttentionShape s;
    const void *q, *k, *v;
    void *o;
    float *lse;
    float *work;
    float scale;
    int causal, bf;
} AttArg;

typedef struct {
    float *qt, *ot, *s, *kf, *vf, *top, *sum;
    int64_t cols; /* queries of the block, in whole vectors */
} AttWork;

static AttWork att_work(const AttArg *a, int thread, int64_t rows)
{
    const AttentionShape *s = &a->s;
    AttWork w;
    w.qt = a->work + thread * attention_floats(s);
    w.ot = w.qt + s->width * QB;
    w.s = w.ot + s->width * QB;
    w.kf = w.s + KB * QB;
    w.vf = w.kf + KB * s->padded;
    w.top = w.vf + KB * s->padded;
    w.sum = w.top + QB;
    w.cols = cpu_ceil_div(rows, VL) * VL;
    return w;
}

/* Scores of one tile into weights 2^(s - top), with the maximum, the sum and the output so far brought to the new top. */
static void att_softmax(const AttWork *w, int64_t keys, int64_t width)
{
    for (int64_t c = 0; c < w->cols; c += VL) {
        float *s = w->s + c;
        vf old = vf_load(w->top + c), m[2] = {old, old};
        int64_t j = 0;
        for (; j + 2 <= keys; j += 2) {
            m[0] = vf_max(m[0], vf_load(s + j * QB));
            m[1] = vf_max(m[1], vf_load(s + (j + 1) * QB));
        }
        if (j < keys)
            m[0] = vf_max(m[0], vf_load(s + j * QB));
        vf top = vf_max(m[0], m[1]), sum = vf_zero();
        for (j = 0; j < keys; j++) {
            vf p = vf_exp2_fast(vf_load(s + j * QB) - top);
            vf_store(s + j * QB, p);
            sum += p;
        }
        vf fade = vf_exp2_fast(old - top);
        vf_store(w->top + c, top);
        vf_store(w->sum + c, vf_load(w->sum + c) * fade + sum);
        for (int64_t d = 0; d < width; d++)
            vf_store(w->ot + d * QB + c, vf_load(w->ot + d * QB + c) * fade);
    }
}

static void att_finish(const AttArg *a, const AttWork *w, int64_t at, int64_t lse_at, int64_t rows)
{
    const AttentionShape *s = &a->s;
    attention_divide(w->ot, w->sum, s->width, w->cols);
    attention_untranspose(a->o, at, s->channels, w->ot, rows, s->width, a->bf);
    for (int64_t i = 0; i < rows; i++)
        a->lse[lse_at + i] = LN_2 * (w->top[i] + log2f(w->sum[i]));
}

static void att_task(void *p, int64_t task, int thread)
{
    const AttArg *a = p;
    const AttentionShape *s = &a->s;
    const int64_t head = task / s->blocks, i0 = task % s->blocks * QB, rows = s->lq - i0 < QB ? s->lq - i0 : QB;
    const int64_t item = head / s->heads, first = head % s->heads * s->width;
    const int64_t at = (item * s->lq + i0) * s->channels + first;
    AttWork w = att_work(a, thread, rows);
    attention_transpose(w.qt, a->q, at, s->channels, rows, s->width, a->scale * LOG2_E, a->bf);
    memset(w.ot, 0, (size_t)(s->width * QB) * sizeof(float));
    for (int i = 0; i < QB; i++) {
        w.top[i] = -INFINITY;
        w.sum[i] = 0;
    }
    for (int64_t j0 = 0; j0 < s->lk; j0 += KB) {
        int64_t keys = attention_keys(s, j0, i0 + rows - 1, a->causal), ld;
        if (keys <= 0)
            break;
        const int64_t key_at = (item * s->lk + j0) * s->channels + first;
        const float *k = attention_tile(s, a->k, key_at, keys, w.kf, a->bf, &ld);
        gemm_tile(&(GemmTile){.a = k, .row = ld, .step = 1, .b = w.qt, .ldb = QB, .c = w.s, .ldc = QB, .depth = s->width},
                  keys, w.cols);
        if (a->causal && j0 + keys - 1 > i0)
            attention_mask(w.s, keys, j0, i0);
        att_softmax(&w, keys, s->width);
        const float *v = attention_tile(s, a->v, key_at, keys, w.vf, a->bf, &ld);
        gemm_tile(&(GemmTile){.a = v, .row = 1, .step = ld, .b = w.s, .ldb = QB, .c = w.ot, .ldc = QB, .depth = keys,
                              .add = 1},
                  s->width, w.cols);
    }
    att_finish(a, &w, at, head * s->lq + i0, rows);
}

int CPU_FN(cpu_attention)(Backend *be, const OpCall *c)
{
#if CPU_ISA_LEVEL == 2
    if (attention_in_pairs(be, &c->in[0], c->attr))
        return cpu_attention_bf16(be, c);
#endif
    AttArg a = {.s = attention_shape(&c->in[0].shape, &c->in[1].shape, c->attr->heads), .q = c->in[0].data,
                .k = c->in[1].data, .v = c->in[2].data, .o = c->out[0].data, .lse = c->out[1].data, .work = c->scratch,
                .scale = c->attr->scale, .causal = c->attr->causal, .bf = is_bf16(&c->in[0])};
    const AttentionShape *s = &a.s;
    int64_t tasks = s->items * s->heads * s->blocks;
    cpu_parallel_tasks(be, tasks, s->items * s->channels * s->lq * s->lk, att_task, &a);
    return 0;
}
