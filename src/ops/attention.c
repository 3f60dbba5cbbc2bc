#include "ops/rule.h"

/* q, k, v agree with each other and with the attributes; lse gets the meta of the saved statistics. */
static int attention_check(OpKind kind, const OpAttr *a, const Meta *q, const Meta *k, const Meta *v, Meta *lse)
{
    TRY(rule_compute(kind, "q", q));
    TRY(rule_ndim(kind, "q", q, 3, 3));
    TRY(rule_ndim(kind, "k", k, 3, 3));
    TRY(rule_finite(kind, "scale", a->scale));
    int64_t n = q->shape.dim[0], c = q->shape.dim[2];
    if (a->heads < 1 || c % a->heads)
        return err_set(ERR_SHAPE, "%s: %d heads, expected a divisor of the %lld channels", op_name(kind), a->heads,
                       (long long)c);
    Meta want = RULE_META(q->dtype, n, k->shape.dim[1], c);
    TRY(rule_equal(kind, "k", k, &want));
    TRY(rule_equal(kind, "v", v, &want));
    *lse = RULE_META(dtype_param(q->dtype), n, a->heads, q->shape.dim[1]);
    return 0;
}

static int attention_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    TRY(rule_inputs(OP_ATTENTION, in, nin, 3));
    TRY(attention_check(OP_ATTENTION, a, &in[0], &in[1], &in[2], &out[1]));
    out[0] = in[0];
    *nout = 2;
    return 0;
}

static int attention_grad(OpBuild *b, const OpGrad *g)
{
    OpRef d[3];
    OpAttr a = {.scale = g->attr->scale, .heads = g->attr->heads, .causal = g->attr->causal};
    TRY(rule_only_first(OP_ATTENTION, g));
    if (g->dout[0] == OP_NONE || !(g->need[0] || g->need[1] || g->need[2]))
        return 0;
    TRY(RULE_EMIT(b, OP_ATTENTION_BWD, &a, d, 3, g->dout[0], g->in[0], g->in[1], g->in[2], g->out[0], g->out[1]));
    for (int i = 0; i < 3; i++)
        if (g->need[i])
            g->din[i] = d[i];
    return 0;
}

static int attention_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_ATTENTION_BWD;
    Meta lse;
    TRY(rule_inputs(k, in, nin, 6));
    TRY(attention_check(k, a, &in[1], &in[2], &in[3], &lse));
    TRY(rule_equal(k, "do", &in[0], &in[1]));
    TRY(rule_equal(k, "o", &in[4], &in[1]));
    TRY(rule_equal(k, "lse", &in[5], &lse));
    for (int i = 0; i < 3; i++)
        out[i] = in[1 + i];
    *nout = 3;
    return 0;
}

const OpRule op_rule_ATTENTION = {.infer = attention_infer, .grad = attention_grad};
const OpRule op_rule_ATTENTION_BWD = {.infer = attention_bwd_infer};

OpRef op_attention(OpBuild *b, OpRef q, OpRef k, OpRef v, int heads, float scale, int causal)
{
    OpAttr a = {.heads = heads, .scale = scale, .causal = causal ? 1 : 0};
    return RULE_OP(b, OP_ATTENTION, &a, 2, q, k, v);
}
