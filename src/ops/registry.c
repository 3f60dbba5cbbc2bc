#include "ops/rule.h"

#include <stddef.h>

const OpRule *op_rule(OpKind k)
{
    static const OpRule *const rules[OP_COUNT] = {
#define RULE_ITEM(n, s) [OP_##n] = &op_rule_##n,
        OP_LIST(RULE_ITEM)
#undef RULE_ITEM
    };
    return (unsigned)k < OP_COUNT ? rules[k] : NULL;
}

uint8_t op_inplace_mask(OpKind k, const OpAttr *attr)
{
    const OpRule *r = op_rule(k);
    if (!r)
        return 0;
    int res = attr->has & OP_HAS_RES ? 1 : 0;
    int slot = attr->has & OP_HAS_BIAS ? 3 : 2;
    switch (k) {
    case OP_LINEAR:
    case OP_CONV2D:
        return (uint8_t)(res << slot);
    case OP_LINEAR_LOW:
    case OP_LINEAR_LOW_BWD_X:
        return (uint8_t)(res << (slot + 2));
    case OP_LINEAR_BWD_X:
    case OP_CONV2D_BWD_X:
        return (uint8_t)(res << 2);
    default:
        return r->inplace;
    }
}

int rule_emit(OpBuild *b, OpKind k, const OpAttr *a, const OpRef *in, int nin, OpRef *out, int nout)
{
    for (int i = 0; i < nout; i++)
        out[i] = OP_NONE;
    for (int i = 0; i < nin; i++)
        if (in[i] == OP_NONE)
            return err_set(ERR_SHAPE, "%s: input %d is missing", op_name(k), i);
    return b->emit(b, k, a, in, nin, out, nout);
}

OpRef rule_op(OpBuild *b, OpKind k, const OpAttr *a, const OpRef *in, int nin, int nout)
{
    OpRef out[OP_MAX_OUT];
    for (int i = 0; i < nin; i++)
        if (in[i] == OP_NONE)
            return OP_NONE;
    return b->emit(b, k, a, in, nin, out, nout) < 0 ? OP_NONE : out[0];
}

Dtype rule_grad_dtype(const OpBuild *b, OpRef w)
{
    return b->grad_dtype ? b->grad_dtype(b, w) : dtype_param(b->meta(b, w)->dtype);
}

int rule_no_grad(OpKind k, const OpGrad *g, int i, const char *what)
{
    return g->need[i] ? err_set(ERR_UNSUPPORTED, "%s: there is no gradient to %s", op_name(k), what) : 0;
}

int rule_only_first(OpKind k, const OpGrad *g)
{
    for (int i = 1; i < g->nout; i++)
        if (g->dout[i] != OP_NONE)
            return err_set(ERR_UNSUPPORTED, "%s: output %d is not differentiable", op_name(k), i);
    return 0;
}
