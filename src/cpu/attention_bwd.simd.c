#include "cpu/simd_attention_bwd.h"

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

static void back_tile(const BackArg *a, BackWork *w, int64_t item, int64_t first, int64_t i0, int64_t rows, int64_t j0,
                      int64_t begin)
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
    gemm_tile(&(GemmTile){.a = w->p, .row = QB, .step = 1, .b = w->dout, .ldb = s->padded, .c = w->dv + (j0 - begin) * s->padded,
                          .ldc = s->padded, .depth = rows, .add = 1},
              keys, s->padded);
    gemm_tile(&(GemmTile){.a = w->ds, .row = QB, .step = 1, .b = w->q, .ldb = s->padded, .c = w->dk + (j0 - begin) * s->padded,
                          .ldc = s->padded, .depth = rows, .add = 1},
              keys, s->padded);
}

static void back_block(const BackArg *a, BackWork *w, int64_t head, int64_t block, int64_t begin, int64_t end)
{
    const AttentionShape *s = &a->s;
    const int64_t item = head / s->heads, first = head % s->heads * s->width, i0 = block * QB;
    const int64_t rows = s->lq - i0 < QB ? s->lq - i0 : QB, at = (item * s->lq + i0) * s->channels + first;
    w->cols = cpu_ceil_div(rows, VL) * VL;
    attention_transpose(w->qt, a->q, at, s->channels, rows, s->width, a->scale * LOG2_E, a->bf);
    attention_transpose(w->dot, a->dout, at, s->channels, rows, s->width, 1.0f, a->bf);
    attention_rows(w->q, a->q, at, s->channels, rows, s->width, s->padded, a->bf);
    attention_rows(w->dout, a->dout, at, s->channels, rows, s->width, s->padded, a->bf);
    back_rows(a, w, at, head * s->lq + i0, rows);
    memset(w->dqt, 0, (size_t)(s->width * QB) * sizeof(float));
    for (int64_t j0 = begin; j0 < end && (!a->causal || j0 < i0 + rows); j0 += KB)
        back_tile(a, w, item, first, i0, rows, j0, begin);
}

int CPU_FN(cpu_attention_bwd)(Backend *be, const OpCall *c)
{
#if CPU_ISA_LEVEL == 2
    if (attention_in_pairs(be, &c->in[1], c->attr))
        return cpu_attention_bwd_bf16(be, c);
#endif
    return back_run(be, c);
}
