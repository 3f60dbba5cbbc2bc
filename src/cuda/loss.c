#include "cuda/internal.h"
#include "kernels.h"

static int64_t count_of_item(const Shape *s)
{
    return shape_count(s) / (s->dim[0] ? s->dim[0] : 1);
}

static size_t scratch_pair(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)be;
    (void)attr;
    (void)nin;
    (void)out;
    (void)nout;
    return kernel_loss_scratch(in[0].shape.dim[0], count_of_item(&in[0].shape));
}

static int run_pair(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    const Shape *s = &c->in[0].shape;
    TRY(t);
    kernel_pair_loss(t, c->kind == OP_L1, c->in[0].data, c->in[1].data, c->in[2].data, c->out[0].data, s->dim[0], count_of_item(s),
                     c->scratch, cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_pair_bwd(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[1].dtype);
    const Shape *s = &c->in[1].shape;
    TRY(t);
    kernel_pair_loss_bwd(t, c->kind == OP_L1_BWD, c->in[0].data, c->in[1].data, c->in[2].data, c->in[3].data, c->out[0].data, s->dim[0],
                         count_of_item(s), cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_pixel(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    const Shape *s = &c->in[0].shape;
    TRY(t);
    kernel_pixel_loss(t, c->attr->loss, c->in[0].data, c->in[1].data, c->in[2].data, c->in[3].data, c->in[4].data, c->out[0].data,
                      s->dim[0], count_of_item(s), shape_last(s), c->scratch, cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_pixel_bwd(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[1].dtype);
    const Shape *s = &c->in[1].shape;
    TRY(t);
    kernel_pixel_loss_bwd(t, c->attr->loss, c->in[0].data, c->in[1].data, c->in[2].data, c->in[3].data, c->in[4].data, c->in[5].data,
                          c->out[0].data, s->dim[0], count_of_item(s), shape_last(s), cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_xent(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    TRY(t);
    kernel_xent(t, c->in[0].data, c->in[1].data, c->out[0].data, c->in[0].shape.dim[0], c->in[0].shape.dim[1], cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_xent_bwd(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[1].dtype);
    TRY(t);
    kernel_xent_bwd(t, c->in[0].data, c->in[1].data, c->in[2].data, c->out[0].data, c->in[1].shape.dim[0], c->in[1].shape.dim[1],
                    cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_gauss_sample(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    const Shape *s = &c->in[0].shape;
    TRY(t);
    kernel_gauss_sample(t, c->in[0].data, c->in[1].data, c->out[0].data, shape_rows(s), shape_last(s) / 2, cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_gauss_sample_bwd(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[1].dtype);
    const Shape *s = &c->in[1].shape;
    TRY(t);
    kernel_gauss_sample_bwd(t, c->in[0].data, c->in[1].data, c->in[2].data, c->out[0].data, shape_rows(s), shape_last(s) / 2,
                            cuda_state(be)->stream);
    return cuda_launched(c);
}

static size_t scratch_kl(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)be;
    (void)attr;
    (void)nin;
    (void)out;
    (void)nout;
    return kernel_loss_scratch(in[0].shape.dim[0], count_of_item(&in[0].shape) / 2);
}

static int run_kl(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    const Shape *s = &c->in[0].shape;
    TRY(t);
    kernel_kl(t, c->in[0].data, c->in[1].data, c->out[0].data, s->dim[0], count_of_item(s) / shape_last(s), shape_last(s) / 2, c->scratch,
              cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_kl_bwd(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[1].dtype);
    const Shape *s = &c->in[1].shape;
    TRY(t);
    kernel_kl_bwd(t, c->in[0].data, c->in[1].data, c->in[2].data, c->out[0].data, s->dim[0], count_of_item(s) / shape_last(s),
                  shape_last(s) / 2, cuda_state(be)->stream);
    return cuda_launched(c);
}

void cuda_loss_register(Backend *be)
{
    be->op[OP_MSE].run = run_pair;
    be->op[OP_MSE].scratch = scratch_pair;
    be->op[OP_MSE_BWD].run = run_pair_bwd;
    be->op[OP_L1].run = run_pair;
    be->op[OP_L1].scratch = scratch_pair;
    be->op[OP_L1_BWD].run = run_pair_bwd;
    be->op[OP_PIXEL_LOSS].run = run_pixel;
    be->op[OP_PIXEL_LOSS].scratch = scratch_pair;
    be->op[OP_PIXEL_LOSS_BWD].run = run_pixel_bwd;
    be->op[OP_XENT].run = run_xent;
    be->op[OP_XENT_BWD].run = run_xent_bwd;
    be->op[OP_GAUSS_SAMPLE].run = run_gauss_sample;
    be->op[OP_GAUSS_SAMPLE_BWD].run = run_gauss_sample_bwd;
    be->op[OP_KL].run = run_kl;
    be->op[OP_KL].scratch = scratch_kl;
    be->op[OP_KL_BWD].run = run_kl_bwd;
}
