#include "cuda/internal.h"
#include "kernels.h"

static int64_t rows_of_item(const Shape *s)
{
    return shape_count(s) / s->dim[0] / shape_last(s);
}

static size_t scratch_group_norm(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)be;
    (void)attr;
    (void)in;
    (void)nin;
    (void)nout;
    const Shape *s = &out[0].shape;
    return kernel_group_norm_scratch(s->dim[0], rows_of_item(s), shape_last(s));
}

static int run_group_norm(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    const Shape *s = &c->in[0].shape;
    TRY(t);
    kernel_group_norm(t, c->in[0].data, c->in[1].data, c->in[2].data, c->out[0].data, c->out[1].data, c->out[2].data, s->dim[0],
                      rows_of_item(s), shape_last(s), c->attr->groups, c->attr->eps, c->attr->act == ACT_SILU, c->scratch,
                      cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_group_norm_bwd(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[1].dtype);
    const Shape *s = &c->in[1].shape;
    TRY(t);
    kernel_group_norm_bwd(t, c->in[0].data, c->in[1].data, c->in[2].data, c->in[3].data, c->in[4].data, c->in[5].data, c->out[0].data,
                          c->out[1].data, c->out[2].data, s->dim[0], rows_of_item(s), shape_last(s), c->attr->groups,
                          c->attr->act == ACT_SILU, c->scratch, cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_layer_norm(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    const Shape *s = &c->in[0].shape;
    TRY(t);
    kernel_layer_norm(t, c->in[0].data, c->in[1].data, c->in[2].data, c->out[0].data, c->out[1].data, c->out[2].data, shape_rows(s),
                      shape_last(s), c->attr->eps, cuda_state(be)->stream);
    return cuda_launched(c);
}

static size_t scratch_layer_norm_bwd(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)be;
    (void)attr;
    (void)in;
    (void)nin;
    (void)nout;
    return kernel_layer_norm_bwd_scratch(shape_rows(&out[0].shape), shape_last(&out[0].shape));
}

static int run_layer_norm_bwd(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[1].dtype);
    const Shape *s = &c->in[1].shape;
    TRY(t);
    kernel_layer_norm_bwd(t, c->in[0].data, c->in[1].data, c->in[2].data, c->in[3].data, c->in[4].data, c->out[0].data, c->out[1].data,
                          c->out[2].data, shape_rows(s), shape_last(s), c->scratch, cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_rms_norm(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    const Shape *s = &c->in[0].shape;
    TRY(t);
    kernel_layer_norm(t, c->in[0].data, c->in[1].data, NULL, c->out[0].data, NULL, c->out[1].data, shape_rows(s), shape_last(s),
                      c->attr->eps, cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_rms_norm_bwd(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[1].dtype);
    const Shape *s = &c->in[1].shape;
    TRY(t);
    kernel_layer_norm_bwd(t, c->in[0].data, c->in[1].data, c->in[2].data, NULL, c->in[3].data, c->out[0].data, c->out[1].data, NULL,
                          shape_rows(s), shape_last(s), c->scratch, cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_l2_norm(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    const Shape *s = &c->in[0].shape;
    TRY(t);
    kernel_l2_norm(t, c->in[0].data, c->out[0].data, c->out[1].data, shape_rows(s), shape_last(s), cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_l2_norm_bwd(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[1].dtype);
    const Shape *s = &c->in[1].shape;
    TRY(t);
    kernel_l2_norm_bwd(t, c->in[0].data, c->in[1].data, c->in[2].data, c->out[0].data, shape_rows(s), shape_last(s),
                       cuda_state(be)->stream);
    return cuda_launched(c);
}

void cuda_norm_register(Backend *be)
{
    be->op[OP_GROUP_NORM].run = run_group_norm;
    be->op[OP_GROUP_NORM].scratch = scratch_group_norm;
    be->op[OP_GROUP_NORM_BWD].run = run_group_norm_bwd;
    be->op[OP_GROUP_NORM_BWD].scratch = scratch_group_norm;
    be->op[OP_LAYER_NORM].run = run_layer_norm;
    be->op[OP_LAYER_NORM_BWD].run = run_layer_norm_bwd;
    be->op[OP_LAYER_NORM_BWD].scratch = scratch_layer_norm_bwd;
    be->op[OP_RMS_NORM].run = run_rms_norm;
    be->op[OP_RMS_NORM_BWD].run = run_rms_norm_bwd;
    be->op[OP_RMS_NORM_BWD].scratch = scratch_layer_norm_bwd;
    be->op[OP_L2_NORM].run = run_l2_norm;
    be->op[OP_L2_NORM_BWD].run = run_l2_norm_bwd;
}
