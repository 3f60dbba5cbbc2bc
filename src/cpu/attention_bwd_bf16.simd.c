#include "cpu/simd_bf16.h"

#if CPU_ISA_LEVEL == 2
#include "cpu/simd_attention_bwd.h"

/* 32 lanes as consecutive halves. */
INLINE void store_halves(float *to, vf a, vf b)
{
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}

/* Row j of the scores and of dP, columns c..c+31, into P and dS. `ds` gets dS as float. */
INLINE void pair_weights(const BackWork *w, int64_t j, int64_t c, float k, float scale, vf ds[2])
{
    vf p[2];
    for (int h = 0; h < 2; h++) {
        const int64_t at = c + h * VL;
        p[h] = vf_exp2_rough(vf_load(w->p + j * QB + at) * vf_set(k) - vf_load(w->lse + at));
        ds[h] = p[h] * (vf_load(w->ds + j * QB + at) - vf_load(w->delta + at)) * vf_set(scale);
    }
    /* In place: the first half of a row's storage holds its bf16 columns, all read before. */
    store_halves(w->p + j * QB + c / 2, p[0], p[1]);
    store_halves(w->ds + j * QB + c / 2, ds[0], ds[1]);
}

static void back_weights(const BackWork *w, int64_t keys, float k, float scale)
{
    for (int64_t j = 0; j < keys; j += 2)
        for (int64_t c = 0; c < w->cols; c += 2 * VL) {
            vf low[2], high[2] = {vf_zero(), vf_zero()};
            pair_weights(w, j, c, k, scale, low);
            if (j + 1 < keys)
                pair_weights(w, j + 1, c, k, scale, high);
            for (int h = 0; h < 2; h++)
                vf_store(w->pairs + j / 2 * QB + c + h * VL, pair_round(low[h], high[h]));
        }
}

static void back_tile(const BackArg *a, BackWork *w, int64_t item, int64_t first, int64_t i0, int64_t rows, int64_t j0,
                      int64_t begin)
{
    const AttentionShape *s = &a->s;
    const int64_t keys = attention_keys(s, j0, i0 + rows - 1, a->causal), words = s->channels / 2;
    const int64_t key_at = (item * s->lk + j0) * s->channels + first, key_pairs = (keys + 1) / 2, row_pairs = (rows + 1) / 2;
    const uint16_t *k = (const uint16_t *)a->k + key_at, *v = (const uint16_t *)a->v + key_at;
    gemm_tile(&(GemmTile){.a = (const float *)(const void *)k, .row = words, .step = 1, .b = w->qt, .ldb = QB, .c = w->p,
                          .ldc = QB, .depth = s->width / 2},
              keys, w->cols);
    gemm_tile(&(GemmTile){.a = (const float *)(const void *)v, .row = words, .step = 1, .b = w->dot, .ldb = QB, .c = w->ds,
                          .ldc = QB, .depth = s->width / 2},
              keys, w->cols);
    if (a->causal && j0 + keys - 1 > i0)
        attention_mask(w->p, keys, j0, i0);
    back_weights(w, keys, a->scale * LOG2_E, a->scale);
    pair_rows(w->kf, k, s->channels, keys, s->width, s->padded);
    gemm_tile(&(GemmTile){.a = w->kf, .row = 1, .step = s->padded, .b = w->pairs, .ldb = QB, .c = w->dqt, .ldc = QB,
                          .depth = key_pairs, .add = 1},
              s->width, w->cols);
    gemm_tile(&(GemmTile){.a = w->p, .row = QB, .step = 1, .b = w->dout, .ldb = s->padded,
                          .c = w->dv + (j0 - begin) * s->padded, .ldc = s->padded, .depth = row_pairs, .add = 1},
              keys, s->padded);
    gemm_tile(&(GemmTile){.a = w->ds, .row = QB, .step = 1, .b = w->q, .ldb = s->padded,
                          .c = w->dk + (j0 - begin) * s->padded, .ldc = s->padded, .depth = row_pairs, .add = 1},
              keys, s->padded);
}

static void back_block(const BackArg *a, BackWork *w, int64_t head, int64_t block, int64_t begin, int64_t end)
{
    const AttentionShape *s = &a->s;
    const int64_t item = head / s->heads, first = head % s->heads * s->width, i0 = block * QB;
    const int64_t rows = s->lq - i0 < QB ? s->lq - i0 : QB, at = (item * s->lq + i0) * s->channels + first;
    const uint16_t *q = (const uint16_t *)a->q + at, *dout = (const uint16_t *)a->dout + at;
    w->cols = cpu_ceil_div(rows, 2 * VL) * 2 * VL;
    pair_transpose(w->qt, q, s->channels, rows, s->width);
    pair_transpose(w->dot, dout, s->channels, rows, s->width);
    pair_rows(w->q, q, s->channels, rows, s->width, s->padded);
    pair_rows(w->dout, dout, s->channels, rows, s->width, s->padded);
    back_rows(a, w, at, head * s->lq + i0, rows);
    memset(w->dqt, 0, (size_t)(s->width * QB) * sizeof(float));
    for (int64_t j0 = begin; j0 < end && (!a->causal || j0 < i0 + rows); j0 += KB)
        back_tile(a, w, item, first, i0, rows, j0, begin);
}

int cpu_attention_bwd_bf16(Backend *be, const OpCall *c)
{
    return back_run(be, c);
}

#endif
