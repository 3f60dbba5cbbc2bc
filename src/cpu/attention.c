#include "cpu/attention.h"

#include <math.h>
#include <string.h>

/* One head of one item in double; rows are ld apart. */
typedef struct {
    const double *q, *k, *v;
    int64_t lq, lk, width, ld;
    double scale;
    int causal;
} Head;

static Head head_at(const AttentionShape *s, const OpCall *c, int qkv, int64_t head)
{
    int64_t item = head / s->heads, first = head % s->heads * s->width;
    return (Head){(const double *)c->in[qkv].data + item * s->lq * s->channels + first,
                  (const double *)c->in[qkv + 1].data + item * s->lk * s->channels + first,
                  (const double *)c->in[qkv + 2].data + item * s->lk * s->channels + first,
                  s->lq,
                  s->lk,
                  s->width,
                  s->channels,
                  (double)c->attr->scale,
                  c->attr->causal};
}

static double score(const Head *h, int64_t i, int64_t j)
{
    double s = 0;
    for (int64_t d = 0; d < h->width; d++)
        s += h->q[i * h->ld + d] * h->k[j * h->ld + d];
    return s * h->scale;
}

static int64_t keys_of(const Head *h, int64_t i)
{
    return h->causal && i + 1 < h->lk ? i + 1 : h->lk;
}

static int f64_attention(Backend *be, const OpCall *c)
{
    (void)be;
    AttentionShape s = attention_shape(&c->in[0].shape, &c->in[1].shape, c->attr->heads);
    double *lse = c->out[1].data;
    for (int64_t n = 0; n < s.items * s.heads; n++) {
        Head h = head_at(&s, c, 0, n);
        double *o = (double *)c->out[0].data + n / s.heads * s.lq * s.channels + n % s.heads * s.width;
        for (int64_t i = 0; i < h.lq; i++) {
            double top = -INFINITY, sum = 0;
            for (int64_t j = 0; j < keys_of(&h, i); j++)
                top = fmax(top, score(&h, i, j));
            memset(o + i * h.ld, 0, (size_t)h.width * sizeof *o);
            for (int64_t j = 0; j < keys_of(&h, i); j++) {
                double p = exp(score(&h, i, j) - top);
                sum += p;
                for (int64_t d = 0; d < h.width; d++)
                    o[i * h.ld + d] += p * h.v[j * h.ld + d];
            }
            for (int64_t d = 0; d < h.width; d++)
                o[i * h.ld + d] /= sum;
            lse[n * s.lq + i] = top + log(sum);
        }
    }
    return 0;
}

static int f64_attention_bwd(Backend *be, const OpCall *c)
{
    (void)be;
    AttentionShape s = attention_shape(&c->in[1].shape, &c->in[2].shape, c->attr->heads);
    const double *lse = c->in[5].data;
    for (int i = 0; i < 3; i++)
        memset(c->out[i].data, 0, (size_t)shape_count(&c->out[i].shape) * sizeof(double));
    for (int64_t n = 0; n < s.items * s.heads; n++) {
        Head h = head_at(&s, c, 1, n);
        int64_t at_q = n / s.heads * s.lq * s.channels + n % s.heads * s.width;
        int64_t at_k = n / s.heads * s.lk * s.channels + n % s.heads * s.width;
        const double *dout = (const double *)c->in[0].data + at_q, *o = (const double *)c->in[4].data + at_q;
        double *dq = (double *)c->out[0].data + at_q;
        double *dk = (double *)c->out[1].data + at_k, *dv = (double *)c->out[2].data + at_k;
        for (int64_t i = 0; i < h.lq; i++)
            for (int64_t j = 0; j < keys_of(&h, i); j++) {
                double p = exp(score(&h, i, j) - lse[n * s.lq + i]), dp = 0;
                for (int64_t d = 0; d < h.width; d++) /* delta is folded in: dp - delta = do . (v - o) */
                    dp += dout[i * h.ld + d] * (h.v[j * h.ld + d] - o[i * h.ld + d]);
                for (int64_t d = 0; d < h.width; d++) {
                    dv[j * h.ld + d] += p * dout[i * h.ld + d];
                    dq[i * h.ld + d] += p * dp * h.scale * h.k[j * h.ld + d];
                    dk[j * h.ld + d] += p * dp * h.scale * h.q[i * h.ld + d];
                }
            }
    }
    return 0;
}

CPU_OP(attention, in[0])
CPU_OP(attention_bwd, in[1])

static size_t scratch_attention(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)nin;
    (void)out;
    (void)nout;
    AttentionShape s = attention_shape(&in[0].shape, &in[1].shape, attr->heads);
    int64_t tasks = s.items * s.heads * cpu_ceil_div(s.blocks, s.group), team = be->threads < tasks ? be->threads : tasks;
    return in[0].dtype == DTYPE_F64 ? 0 : (size_t)(team * attention_floats(&s)) * sizeof(float);
}

static size_t scratch_attention_bwd(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)nin;
    (void)out;
    (void)nout;
    AttentionShape s = attention_shape(&in[1].shape, &in[2].shape, attr->heads);
    int64_t tasks = s.items * s.heads * attention_spans(&s).count, team = be->threads < tasks ? be->threads : tasks;
    int64_t floats = team * attention_bwd_floats(&s) + attention_dq_floats(&s);
    return in[1].dtype == DTYPE_F64 ? 0 : (size_t)floats * sizeof(float);
}

void cpu_attention_register(Backend *be)
{
    be->op[OP_ATTENTION].run = run_attention;
    be->op[OP_ATTENTION].scratch = scratch_attention;
    be->op[OP_ATTENTION_BWD].run = run_attention_bwd;
    be->op[OP_ATTENTION_BWD].scratch = scratch_attention_bwd;
}
