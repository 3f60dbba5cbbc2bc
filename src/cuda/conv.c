#include <stdlib.h>

#include "cuda/internal.h"
#include "kernels.h"

static KernelConv conv_of(Backend *be, const OpAttr *a, const Shape *x, const Shape *w, const Shape *y)
{
    int up = a->up[0] > 0;
    return (KernelConv){.n = x->dim[0], .h = up ? a->up[0] : x->dim[1], .w = up ? a->up[1] : x->dim[2], .ci = x->dim[3], .oh = y->dim[1], .ow = y->dim[2],
                        .co = y->dim[3], .kh = (int)w->dim[2], .kw = (int)w->dim[3], .stride = a->stride, .pad_top = a->pad[0],
                        .pad_left = a->pad[1], .from_h = up ? x->dim[1] : 0, .from_w = up ? x->dim[2] : 0, .processors = cuda_state(be)->processors};
}

/* Frozen weights are packed once; others in every run, into scratch. */
typedef struct {
    void *packed;
    size_t bytes;
} ConvState;

static size_t scratch_pack(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)be;
    (void)attr;
    (void)nin;
    (void)out;
    (void)nout;
    return (size_t)shape_count(&in[1].shape) * dtype_size(in[1].dtype);
}

static KernelConv conv_of_call(Backend *be, const OpCall *c)
{
    int forward = c->kind == OP_CONV2D;
    return conv_of(be, c->attr, forward ? &c->in[0].shape : &c->out[0].shape, &c->in[1].shape, forward ? &c->out[0].shape : &c->in[0].shape);
}

static int prepare(Backend *be, const OpCall *c, void **state)
{
    const OpView *w = &c->in[1];
    *state = NULL;
    if (!w->data || !w->frozen)
        return 0;
    int t = cuda_type(c, w->dtype);
    TRY(t);
    ConvState *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(ERR_NOMEM, "out of memory: node state");
    s->bytes = (size_t)shape_count(&w->shape) * dtype_size(w->dtype);
    int rc = be->alloc(be, &s->packed, s->bytes);
    if (rc < 0) {
        free(s);
        return rc;
    }
    KernelConv k = conv_of_call(be, c);
    kernel_conv_pack(t, w->data, s->packed, &k, c->kind == OP_CONV2D_BWD_X, cuda_state(be)->stream);
    *state = s;
    return cuda_launched(c);
}

static void release(Backend *be, void *state)
{
    ConvState *s = state;
    be->free(be, s->packed, s->bytes);
    free(s);
}

static int run_conv(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype), i = 2;
    TRY(t);
    KernelConv k = conv_of_call(be, c);
    const ConvState *s = c->state;
    void *stream = cuda_state(be)->stream, *packed = s ? s->packed : c->scratch;
    if (!s)
        kernel_conv_pack(t, c->in[1].data, packed, &k, c->kind == OP_CONV2D_BWD_X, stream);
    const float *bias = c->kind == OP_CONV2D && c->attr->has & OP_HAS_BIAS ? c->in[i++].data : NULL;
    const void *res = c->attr->has & OP_HAS_RES ? c->in[i].data : NULL;
    if (c->kind == OP_CONV2D)
        kernel_conv(t, c->in[0].data, packed, bias, res, c->out[0].data, &k, stream);
    else
        kernel_conv_bwd_x(t, c->in[0].data, packed, res, c->out[0].data, &k, stream);
    return cuda_launched(c);
}

static size_t scratch_bwd_w(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)be;
    (void)nin;
    (void)nout;
    KernelConv k = conv_of(be, attr, &in[1].shape, &out[0].shape, &in[0].shape);
    return kernel_conv_bwd_w_scratch(&k);
}

static int run_bwd_w(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype), tw = cuda_type(c, c->out[0].dtype);
    TRY(t);
    TRY(tw);
    KernelConv k = conv_of(be, c->attr, &c->in[1].shape, &c->out[0].shape, &c->in[0].shape);
    kernel_conv_bwd_w(t, tw, c->in[0].data, c->in[1].data, c->out[0].data, &k, c->scratch, cuda_state(be)->stream);
    return cuda_launched(c);
}

void cuda_conv_register(Backend *be)
{
    be->fuses |= BACKEND_FUSE_UPSAMPLE;
    be->op[OP_CONV2D].run = run_conv;
    be->op[OP_CONV2D_BWD_X].run = run_conv;
    be->op[OP_CONV2D].scratch = be->op[OP_CONV2D_BWD_X].scratch = scratch_pack;
    be->op[OP_CONV2D].prepare = be->op[OP_CONV2D_BWD_X].prepare = prepare;
    be->op[OP_CONV2D].release = be->op[OP_CONV2D_BWD_X].release = release;
    be->op[OP_CONV2D_BWD_W].run = run_bwd_w;
    be->op[OP_CONV2D_BWD_W].scratch = scratch_bwd_w;
}
