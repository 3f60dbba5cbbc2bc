#include "cpu/simd_bf16.h"

#if CPU_ISA_LEVEL == 2
#include "cpu/simd_attention_fwd.h"

/* attention.simd.c with both products on bf16 pairs. Scores stay raw; the scale enters with the exponential. */

static void att_queries(const AttArg *a, const AttBlock *b, int64_t at)
{
    pair_transpose(b->qt, (const uint16_t *)a->q + at, a->s.channels, b->rows, a->s.width);
}

/* Keys as they are, values in pairs of keys. */
static void att_tile(const AttArg *a, AttWork *w, int64_t at, int64_t keys)
{
    const AttentionShape *s = &a->s;
    const uint16_t *k = (const uint16_t *)a->k + at;
    w->k = (const float *)(const void *)k;
    w->ldk = s->channels / 2;
    if (s->group > 1) {
        for (int64_t j = 0; j < keys; j++)
            memcpy(w->kf + j * s->padded / 2, k + j * s->channels, (size_t)s->width * sizeof *k);
        w->k = w->kf;
        w->ldk = s->padded / 2;
    }
    pair_rows(w->vf, (const uint16_t *)a->v + at, s->channels, keys, s->width, s->padded);
    w->v = w->vf;
    w->ldv = s->padded;
}

static void att_softmax(const AttWork *w, const AttBlock *b, int64_t keys, int64_t width, float scale)
{
    const vf k = vf_set(scale);
    for (int64_t c = 0; c < b->cols; c += VL) {
        const float *s = w->s + c;
        vf old = vf_load(b->top + c), m[2] = {old, old};
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
            vf_store(w->p + j / 2 * QB + c, pair_round(p0, p1));
        }
        if (j < keys) {
            vf p0 = vf_exp2_rough(vf_load(s + j * QB) * k - base);
            sum[0] += p0;
            vf_store(w->p + j / 2 * QB + c, pair_round(p0, vf_zero()));
        }
        vf fade = vf_exp2_rough(old * k - base);
        vf_store(b->top + c, top);
        vf_store(b->sum + c, vf_load(b->sum + c) * fade + (sum[0] + sum[1]));
        for (int64_t d = 0; d < width; d++)
            vf_store(b->ot + d * QB + c, vf_load(b->ot + d * QB + c) * fade);
    }
}

static void att_block(const AttArg *a, const AttWork *w, const AttBlock *b, int64_t j0, int64_t keys)
{
    const int64_t width = a->s.width;
    gemm_tile(&(GemmTile){.a = w->k, .row = w->ldk, .step = 1, .b = b->qt, .ldb = QB, .c = w->s, .ldc = QB,
                          .depth = width / 2},
              keys, b->cols);
    if (a->causal && j0 + keys - 1 > b->i0)
        attention_mask(w->s, keys, j0, b->i0);
    att_softmax(w, b, keys, width, a->scale);
    gemm_tile(&(GemmTile){.a = w->v, .row = 1, .step = w->ldv, .b = w->p, .ldb = QB, .c = b->ot, .ldc = QB,
                          .depth = (keys + 1) / 2, .add = 1},
              width, b->cols);
}

int cpu_attention_bf16(Backend *be, const OpCall *c)
{
    return att_run(be, c, c->attr->scale * LOG2_E);
}

#endif
