#include "cpu/simd_attention_fwd.h"

static void att_queries(const AttArg *a, const AttBlock *b, int64_t at)
{
    attention_transpose(b->qt, a->q, at, a->s.channels, b->rows, a->s.width, a->scale, a->bf);
}

/* For a group, floats are copied too: their rows lie a whole image row apart and would fight for the same cache sets. */
static void att_tile(const AttArg *a, AttWork *w, int64_t at, int64_t keys)
{
    const AttentionShape *s = &a->s;
    if (!a->bf && s->group == 1) {
        w->k = (const float *)a->k + at;
        w->v = (const float *)a->v + at;
        w->ldk = w->ldv = s->channels;
        return;
    }
    attention_rows(w->kf, a->k, at, s->channels, keys, s->width, s->padded, a->bf);
    attention_rows(w->vf, a->v, at, s->channels, keys, s->width, s->padded, a->bf);
    w->k = w->kf;
    w->v = w->vf;
    w->ldk = w->ldv = s->padded;
}

/* Scores of one tile into weights 2^(s - top), with the maximum, the sum and the output so far brought to the new top. */
static void att_softmax(float *scores, const AttBlock *b, int64_t keys, int64_t width)
{
    for (int64_t c = 0; c < b->cols; c += VL) {
        float *s = scores + c;
        vf old = vf_load(b->top + c), m[2] = {old, old};
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
        vf_store(b->top + c, top);
        vf_store(b->sum + c, vf_load(b->sum + c) * fade + sum);
        for (int64_t d = 0; d < width; d++)
            vf_store(b->ot + d * QB + c, vf_load(b->ot + d * QB + c) * fade);
    }
}

static void att_block(const AttArg *a, const AttWork *w, const AttBlock *b, int64_t j0, int64_t keys)
{
    const int64_t width = a->s.width;
    gemm_tile(&(GemmTile){.a = w->k, .row = w->ldk, .step = 1, .b = b->qt, .ldb = QB, .c = w->s, .ldc = QB, .depth = width},
              keys, b->cols);
    if (a->causal && j0 + keys - 1 > b->i0)
        attention_mask(w->s, keys, j0, b->i0);
    att_softmax(w->s, b, keys, width);
    gemm_tile(&(GemmTile){.a = w->v, .row = 1, .step = w->ldv, .b = w->s, .ldb = QB, .c = b->ot, .ldc = QB, .depth = keys,
                          .add = 1},
              width, b->cols);
}

int CPU_FN(cpu_attention)(Backend *be, const OpCall *c)
{
#if CPU_ISA_LEVEL == 2
    if (attention_in_pairs(be, &c->in[0], c->attr))
        return cpu_attention_bf16(be, c);
#endif
    return att_run(be, c, 1.0f);
}
