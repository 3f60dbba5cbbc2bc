#include "cpu/simd_bf16.h"

#if CPU_ISA_LEVEL == 2

/* attention.simd.c with both products on bf16 pairs. Scores stay raw; the scale enters with the exponential. Needs an even
 * head width and a scale over 0. */
typedef struct {
    AttentionShape s;
    const uint16_t *q, *k, *v;
    void *o;
    float *lse;
    float *work;
    float scale; /* times log2(e) */
    int causal;
} PairArg;

typedef struct {
    float *qt, *pt, *vp; /* pairs: [width/2][QB], [KB/2][QB], [KB/2][padded] */
    float *ot, *s, *top, *sum;
    int64_t cols;
} PairWork;

static PairWork pair_work(const PairArg *a, int thread, int64_t rows)
{
    const AttentionShape *s = &a->s;
    PairWork w;
    w.ot = a->work + thread * attention_floats(s);
    w.qt = w.ot + s->width * QB;
    w.s = w.qt + s->width / 2 * QB;
    w.pt = w.s + KB * QB;
    w.vp = w.pt + KB / 2 * QB;
    w.top = w.vp + KB / 2 * s->padded;
    w.sum = w.top + QB;
    w.cols = cpu_ceil_div(rows, VL) * VL;
    return w;
}

static void pair_softmax(const PairWork *w, int64_t keys, int64_t width, float scale)
{
    const vf k = vf_set(scale);
    for (int64_t c = 0; c < w->cols; c += VL) {
        const float *s = w->s + c;
        vf old = vf_load(w->top + c), m[2] = {old, old};
        int64_t j = 0;
        for (; j + 2 <= keys; j += 2) {
            m[0] = vf_max(m[0], vf_load(s + j * QB));
            m[1] = vf_max(m[1], vf_load(s + (j + 1) * QB));
        }
        if (j < keys)
            m[0] = vf_max(m[0], vf_load(s + j * QB));
        const vf top = vf_max(m[0], m[1]), base = top * k;
        vf sum[2] = {vf_zero(), vf_zero()};
        for (j = 0; j + 2 <= keys; j += 2) {
            vf p0 = vf_exp2_rough(vf_load(s + j * QB) * k - base), p1 = vf_exp2_rough(vf_load(s + (j + 1) * QB) * k - base);
            sum[0] += p0;
            sum[1] += p1;
            vf_store(w->pt + j / 2 * QB + c, pair_round(p0, p1));
        }
        if (j < keys) {
            vf p0 = vf_exp2_rough(vf_load(s + j * QB) * k - base);
            sum[0] += p0;
            vf_store(w->pt + j / 2 * QB + c, pair_round(p0, vf_zero()));
        }
        vf fade = vf_exp2_rough(old * k - base);
        vf_store(w->top + c, top);
        vf_store(w->sum + c, vf_load(w->sum + c) * fade + (sum[0] + sum[1]));
        if (_mm512_cmp_ps_mask(old, top, _CMP_NEQ_UQ))
            for (int64_t d = 0; d < width; d++)
                vf_store(w->ot + d * QB + c, vf_load(w->ot + d * QB + c) * fade);
    }
}

static void pair_task(void *p, int64_t task, int thread)
{
    const PairArg *a = p;
    const AttentionShape *s = &a->s;
    const int64_t head = task / s->blocks, i0 = task % s->blocks * QB, rows = s->lq - i0 < QB ? s->lq - i0 : QB;
    const int64_t item = head / s->heads, first = head % s->heads * s->width;
    const int64_t at = (item * s->lq + i0) * s->channels + first;
    PairWork w = pair_work(a, thread, rows);
    pair_transpose(w.qt, a->q + at, s->channels, rows, s->width);
    memset(w.ot, 0, (size_t)(s->width * QB) * sizeof(float));
    for (int i = 0; i < QB; i++) {
        w.top[i] = -INFINITY;
        w.sum[i] = 0;
    }
    for (int64_t j0 = 0; j0 < s->lk; j0 += KB) {
        int64_t keys = attention_keys(s, j0, i0 + rows - 1, a->causal);
        if (keys <= 0)
            break;
        const int64_t key_at = (item * s->lk + j0) * s->channels + first;
        gemm_tile(&(GemmTile){.a = (const float *)(const void *)(a->k + key_at), .row = s->channels / 2, .step = 1, .b = w.qt,
                              .ldb = QB, .c = w.s, .ldc = QB, .depth = s->width / 2},
                  keys, w.cols);
        if (a->causal && j0 + keys - 1 > i0)
            attention_mask(w.s, keys, j0, i0);
        pair_softmax(&w, keys, s->width, a->scale);
        pair_rows(w.vp, a->v + key_at, s->channels, keys, s->width, s->padded);
        gemm_tile(&(GemmTile){.a = w.vp, .row = 1, .step = s->padded, .b = w.pt, .ldb = QB, .c = w.ot, .ldc = QB,
                              .depth = (keys + 1) / 2, .add = 1},
                  s->width, w.cols);
    }
    attention_divide(w.ot, w.sum, s->width, w.cols);
    attention_untranspose(a->o, at, s->channels, w.ot, rows, s->width, 1);
    for (int64_t i = 0; i < rows; i++)
        a->lse[head * s->lq + i0 + i] = LN_2 * (w.top[i] * a->scale + log2f(w.sum[i]));
}

int cpu_attention_bf16(Backend *be, const OpCall *c)
{
    PairArg a = {.s = attention_shape(&c->in[0].shape, &c->in[1].shape, c->attr->heads), .q = c->in[0].data,
                 .k = c->in[1].data, .v = c->in[2].data, .o = c->out[0].data, .lse = c->out[1].data, .work = c->scratch,
                 .scale = c->attr->scale * LOG2_E, .causal = c->attr->causal};
    const AttentionShape *s = &a.s;
    int64_t tasks = s->items * s->heads * s->blocks;
    cpu_parallel_tasks(be, tasks, s->items * s->channels * s->lq * s->lk / 2, pair_task, &a);
    return 0;
}

#endif
