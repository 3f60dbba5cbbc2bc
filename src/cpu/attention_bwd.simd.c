#include "cpu/simd_attention.h"

/* FlashAttention's backward pass (arXiv 2205.14135, algorithm 4): one task is one head. For each block of queries and each
 * tile of keys the weights are computed again from lse; dq gathers over tiles, dk and dv over blocks, both in order. */
typedef struct {
    AttentionShape s;
    const void *dout, *q, *k, *v, *o;
    const float *lse;
    void *dq, *dk, *dv;
    float *work;
    float scale;
    int causal, bf;
} BackArg;

typedef struct {
    float *qt, *dot, *dqt;      /* [width][QB] */
    float *q, *dout;            /* [QB][padded] */
    float *p, *ds;              /* [KB][QB] */
    float *kf, *vf;             /* [KB][padded] */
    float *lse, *delta;         /* [QB] */
    float *dk, *dv;             /* [lk][padded] */
    int64_t cols;
} BackWork;

static BackWork back_work(const BackArg *a, int thread)
{
    const AttentionShape *s = &a->s;
    BackWork w;
    float *f = a->work + thread * attention_bwd_floats(s);
    float **part[] = {&w.qt, &w.dot, &w.dqt, &w.q, &w.dout, &w.p, &w.ds, &w.kf, &w.vf, &w.lse, &w.delta, &w.dk, &w.dv};
    const int64_t t = s->width * QB, r = QB * s->padded, tile = KB * QB, k = KB * s->padded, all = s->lk * s->padded;
    const int64_t size[] = {t, t, t, r, r, tile, tile, k, k, QB, QB, all, all};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        *part[i] = f;
        f += size[i];
    }
    w.cols = QB;
    return w;
}

/* P = 2^(s - lse), dS = P (dP - delta) scale; both in place. */
static void back_weights(const BackWork *w, int64_t keys, float scale)
{
    const vf factor = vf_set(scale);
    for (int64_t j = 0; j < keys; j++)
        for (int64_t c = 0; c < w->cols; c += VL) {
            float *p = w->p + j * QB + c, *ds = w->ds + j * QB + c;
            vf weight = vf_exp2_fast(vf_load(p) - vf_load(w->lse + c));
            vf_store(p, weight);
            vf_store(ds, weight * (vf_load(ds) - vf_load(w->delta + c)) * factor);
        }
}

static void back_tile(const BackArg *a, BackWork *w, int64_t item, int64_t first, int64_t i0, int64_t rows, int64_t j0)
{
    const AttentionShape *s = &a->s;
    const int64_t keys = attention_keys(s, j0, i0 + rows - 1, a->causal);
    const int64_t key_at = (item * s->lk + j0) * s->channels + first;
    int64_t ld;
    const float *k = attention_tile(s, a->k, key_at, keys, w->kf, a->bf, &ld);
    const float *v = attention_tile(s, a->v, key_at, keys, w->vf, a->bf, &ld);
    gemm_tile(&(GemmTile){.a = k, .row = ld, .step = 1, .b = w->qt, .ldb = QB, .c = w->p, .ldc = QB, .depth = s->width},
              keys, w->cols);
    gemm_tile(&(GemmTile){.a = v, .row = ld, .step = 1, .b = w->dot, .ldb = QB, .c = w->ds, .ldc = QB, .depth = s->width},
              keys, w->cols);
    if (a->causal && j0 + keys - 1 > i0)
        attention_mask(w->p, keys, j0, i0);
    back_weights(w, keys, a->scale);
    gemm_tile(&(GemmTile){.a = k, .row = 1, .step = ld, .b = w->ds, .ldb = QB, .c = w->dqt, .ldc = QB, .depth = keys,
                          .add = 1},
              s->width, w->cols);
    gemm_tile(&(GemmTile){.a = w->p, .row = QB, .step = 1, .b = w->dout, .ldb = s->padded, .c = w->dv + j0 * s->padded,
                          .ldc = s->padded, .depth = rows, .add = 1},
              keys, s->padded);
    gemm_tile(&(GemmTile){.a = w->ds, .row = QB, .step = 1, .b = w->q, .ldb = s->padded, .c = w->dk + j0 * s->padded,
                          .ldc = s->padded, .depth = rows, .add = 1},
              keys, s->padded);
}

/* delta[i] = sum over d of do[i][d] o[i][d]; lse in base 2. Unused lanes: 0. */
static void back_rows(const BackArg *a, const BackWork *w, int64_t at, int64_t lse_at, int64_t rows)
{
    const AttentionShape *s = &a->s;
    for (int64_t i = 0; i < QB; i++) {
        vf sum = vf_zero();
        for (int64_t d = 0; i < rows && d < s->width; d += VL)
            sum += vf_load(w->dout + i * s->padded + d) *
                   vt_load(a->o, at + i * s->channels + d, lanes_at(d, s->width), a->bf);
        w->delta[i] = vf_sum(sum);
        w->lse[i] = i < rows ? a->lse[lse_at + i] * LOG2_E : 0;
    }
}

static void back_task(void *p, int64_t head, int thread)
{
    const BackArg *a = p;
    const AttentionShape *s = &a->s;
    const int64_t item = head / s->heads, first = head % s->heads * s->width;
    BackWork w = back_work(a, thread);
    memset(w.dk, 0, (size_t)(2 * s->lk * s->padded) * sizeof(float));
    for (int64_t i0 = 0; i0 < s->lq; i0 += QB) {
        const int64_t rows = s->lq - i0 < QB ? s->lq - i0 : QB, at = (item * s->lq + i0) * s->channels + first;
        w.cols = cpu_ceil_div(rows, VL) * VL;
        attention_transpose(w.qt, a->q, at, s->channels, rows, s->width, a->scale * LOG2_E, a->bf);
        attention_transpose(w.dot, a->dout, at, s->channels, rows, s->width, 1.0f, a->bf);
        attention_rows(w.q, a->q, at, s->channels, rows, s->width, s->padded, a->bf);
        attention_rows(w.dout, a->dout, at, s->channels, rows, s->width, s->padded, a->bf);
        back_rows(a, &w, at, head * s->lq + i0, rows);
        memset(w.dqt, 0, (size_t)(s->width * QB) * sizeof(float));
        for (int64_t j0 = 0; j0 < s->lk && (!a->causal || j0 < i0 + rows); j0 += KB)
            back_tile(a, &w, item, first, i0, rows, j0);
        attention_untranspose(a->dq, at, s->channels, w.dqt, rows, s->width, a->bf);
    }
    for (int64_t j = 0; j < s->lk; j++)
        for (int64_t d = 0; d < s->width; d += VL) {
            int n = lanes_at(d, s->width);
            int64_t to = (item * s->lk + j) * s->channels + first + d;
            vt_store(a->dk, to, vf_load(w.dk + j * s->padded + d), n, a->bf);
            vt_store(a->dv, to, vf_load(w.dv + j * s->padded + d), n, a->bf);
        }
}

int CPU_FN(cpu_attention_bwd)(Backend *be, const OpCall *c)
{
    BackArg a = {.s = attention_shape(&c->in[1].shape, &c->in[2].shape, c->attr->heads), .dout = c->in[0].data,
                 .q = c->in[1].data, .k = c->in[2].data, .v = c->in[3].data, .o = c->in[4].data, .lse = c->in[5].data,
                 .dq = c->out[0].data, .dk = c->out[1].data, .dv = c->out[2].data, .work = c->scratch,
                 .scale = c->attr->scale, .causal = c->attr->causal, .bf = is_bf16(&c->in[1])};
    const AttentionShape *s = &a.s;
    cpu_parallel_tasks(be, s->items * s->heads, s->items * s->channels * s->lq * s->lk * 2, back_task, &a);
    return 0;
}
