#include "cuda/internal.h"
#include "kernels.h"

static int run_embed(Backend *be, const OpCall *c)
{
    const OpView *table = &c->in[1];
    kernel_embed((int)dtype_size(table->dtype), c->in[0].data, table->data, c->out[0].data, shape_count(&c->in[0].shape),
                 table->shape.dim[0], table->shape.dim[1], cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_embed_bwd(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    TRY(t);
    const int64_t *d = c->out[0].shape.dim;
    kernel_embed_bwd(t, c->in[0].data, c->in[1].data, c->out[0].data, shape_count(&c->in[1].shape), d[0], d[1], cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_gather_row(Backend *be, const OpCall *c)
{
    const int64_t *d = c->in[0].shape.dim;
    kernel_gather_row((int)dtype_size(c->in[0].dtype), c->in[0].data, c->in[1].data, c->out[0].data, d[0], d[1], d[2],
                      cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_gather_row_bwd(Backend *be, const OpCall *c)
{
    const int64_t *d = c->out[0].shape.dim;
    kernel_gather_row_bwd((int)dtype_size(c->in[0].dtype), c->in[0].data, c->in[1].data, c->out[0].data, d[0], d[1], d[2],
                          cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_time_embed(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->out[0].dtype);
    const OpAttr *a = c->attr;
    TRY(t);
    kernel_time_embed(t, c->in[0].data, c->out[0].data, shape_count(&c->in[0].shape), shape_last(&c->out[0].shape), a->flip, a->shift,
                      a->max_period, cuda_state(be)->stream);
    return cuda_launched(c);
}

void cuda_embed_register(Backend *be)
{
    be->op[OP_EMBED].run = run_embed;
    be->op[OP_EMBED_BWD].run = run_embed_bwd;
    be->op[OP_GATHER_ROW].run = run_gather_row;
    be->op[OP_GATHER_ROW_BWD].run = run_gather_row_bwd;
    be->op[OP_TIME_EMBED].run = run_time_embed;
}
