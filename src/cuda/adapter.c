#include "cuda/internal.h"
#include "kernels.h"

static int run_row_gain(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    const Shape *v = &c->in[1].shape;
    TRY(t);
    kernel_row_gain(c->in[0].data, c->in[1].data, c->out[0].data, v->dim[0], shape_count(v) / v->dim[0], cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_dropout(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    const Shape *s = &c->in[0].shape;
    const OpAttr *a = c->attr;
    TRY(t);
    kernel_dropout(t, c->in[0].data, c->in[1].data, c->out[0].data, s->dim[0], shape_count(s) / s->dim[0], shape_last(s), a->scale, a->bcast,
                   (uint64_t)a->begin, (uint64_t)a->count, cuda_state(be)->stream);
    return cuda_launched(c);
}

void cuda_adapter_register(Backend *be)
{
    be->op[OP_ROW_GAIN].run = run_row_gain;
    be->op[OP_DROPOUT].run = run_dropout;
}
