/* Activations, arithmetic, broadcasts and moves. */
#include "cuda/internal.h"
#include "kernels.h"

static int64_t count_of(const OpView *v)
{
    return shape_count(&v->shape);
}

static int64_t middle(const Shape *s)
{
    int64_t m = 1;
    for (int i = 1; i < s->ndim - 1; i++)
        m *= s->dim[i];
    return m;
}

static int run_act(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    TRY(t);
    kernel_act(t, c->in[0].data, c->out[0].data, count_of(&c->in[0]), c->attr->act, cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_act_bwd(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[1].dtype);
    TRY(t);
    kernel_act_bwd(t, c->in[0].data, c->in[1].data, c->out[0].data, count_of(&c->in[1]), c->attr->act, cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_geglu(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    TRY(t);
    kernel_geglu(t, c->in[0].data, c->nin > 1 ? c->in[1].data : NULL, c->out[0].data, shape_rows(&c->out[0].shape),
                 shape_last(&c->out[0].shape), cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_geglu_bwd(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[1].dtype);
    TRY(t);
    kernel_geglu_bwd(t, c->in[0].data, c->in[1].data, c->nin > 2 ? c->in[2].data : NULL, c->out[0].data, shape_rows(&c->in[1].shape), shape_last(&c->in[1].shape) / 2,
                     cuda_state(be)->stream);
    return cuda_launched(c);
}

void cuda_act_register(Backend *be)
{
    be->op[OP_ACT].run = run_act;
    be->op[OP_ACT_BWD].run = run_act_bwd;
    be->op[OP_GEGLU].run = run_geglu;
    be->op[OP_GEGLU_BWD].run = run_geglu_bwd;
    be->fuses |= BACKEND_FUSE_BIAS; /* cuBLAS would need a pass over the result for it */
}

static int run_add(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    TRY(t);
    kernel_add(t, c->in[0].data, c->in[1].data, c->out[0].data, count_of(&c->in[0]), cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_mul(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    TRY(t);
    kernel_mul(t, c->in[0].data, c->in[1].data, c->out[0].data, count_of(&c->in[0]), cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_scale(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    TRY(t);
    kernel_scale(t, c->in[0].data, c->nin > 1 ? c->in[1].data : NULL, c->attr->scale, c->out[0].data, count_of(&c->in[0]),
                 cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_bcast(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype), tv = cuda_type(c, c->in[1].dtype);
    const Shape *s = &c->in[0].shape;
    TRY(t);
    TRY(tv);
    int64_t rows = shape_rows(s), div = 1, mod = 1;
    if (c->attr->bcast == BCAST_ITEM) {
        div = middle(s);
        mod = rows;
    } else if (c->attr->bcast == BCAST_ROW) {
        mod = rows / s->dim[0];
    }
    (c->kind == OP_MUL_BCAST ? kernel_mul_rows : kernel_add_rows)(t, tv, c->in[0].data, c->in[1].data, c->out[0].data, rows, shape_last(s), div,
                                                                  mod, cuda_state(be)->stream);
    return cuda_launched(c);
}

static size_t scratch_sum_bcast(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)be;
    (void)nin;
    (void)out;
    (void)nout;
    const Shape *s = &in[0].shape;
    if (attr->bcast == BCAST_ROW)
        return 0;
    int64_t items = attr->bcast == BCAST_ITEM ? s->dim[0] : 1;
    return kernel_sum_rows_scratch(items, shape_rows(s) / items, shape_last(s));
}

static int run_sum_bcast(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype), to = cuda_type(c, c->out[0].dtype);
    const Shape *s = &c->in[0].shape;
    TRY(t);
    TRY(to);
    if (c->attr->bcast == BCAST_ROW) {
        kernel_sum_items(t, to, c->in[0].data, c->out[0].data, s->dim[0], shape_count(s) / s->dim[0], cuda_state(be)->stream);
    } else {
        int64_t items = c->attr->bcast == BCAST_ITEM ? s->dim[0] : 1;
        kernel_sum_rows(t, to, c->in[0].data, c->out[0].data, items, shape_rows(s) / items, shape_last(s), c->scratch,
                        cuda_state(be)->stream);
    }
    return cuda_launched(c);
}

static int run_cast(Backend *be, const OpCall *c)
{
    int from = c->in[0].dtype == DTYPE_F16 ? KERNEL_F16 : cuda_type(c, c->in[0].dtype);
    int to = c->out[0].dtype == DTYPE_F16 ? KERNEL_F16 : cuda_type(c, c->out[0].dtype);
    TRY(from);
    TRY(to);
    kernel_cast(from, to, c->in[0].data, c->out[0].data, count_of(&c->in[0]), cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_concat(Backend *be, const OpCall *c)
{
    int64_t at = 0, so = shape_last(&c->out[0].shape);
    for (int i = 0; i < c->nin; i++) {
        int64_t w = shape_last(&c->in[i].shape);
        kernel_copy_rows((int)dtype_size(c->in[i].dtype), c->in[i].data, w, 0, c->out[0].data, so, at, shape_rows(&c->out[0].shape), w,
                         cuda_state(be)->stream);
        at += w;
    }
    return cuda_launched(c);
}

static int run_slice(Backend *be, const OpCall *c)
{
    int64_t w = c->attr->count;
    kernel_copy_rows((int)dtype_size(c->in[0].dtype), c->in[0].data, shape_last(&c->in[0].shape), c->attr->begin, c->out[0].data, w, 0,
                     shape_rows(&c->in[0].shape), w, cuda_state(be)->stream);
    return cuda_launched(c);
}

static int zero(Backend *be, const OpView *v)
{
    return cuda_check(cudaMemsetAsync(v->data, 0, (size_t)count_of(v) * dtype_size(v->dtype), cuda_state(be)->stream), "zero");
}

static int run_zero(Backend *be, const OpCall *c)
{
    return zero(be, &c->out[0]);
}

static int run_slice_bwd(Backend *be, const OpCall *c)
{
    int64_t w = shape_last(&c->in[0].shape);
    TRY(zero(be, &c->out[0]));
    kernel_copy_rows((int)dtype_size(c->in[0].dtype), c->in[0].data, w, 0, c->out[0].data, shape_last(&c->out[0].shape), c->attr->begin,
                     shape_rows(&c->out[0].shape), w, cuda_state(be)->stream);
    return cuda_launched(c);
}

static int transpose(Backend *be, const OpCall *c, int64_t rows, int64_t cols)
{
    kernel_transpose((int)dtype_size(c->in[0].dtype), c->in[0].data, c->out[0].data, c->in[0].shape.dim[0], rows, cols,
                     cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_nchw_to_nhwc(Backend *be, const OpCall *c)
{
    const int64_t *d = c->in[0].shape.dim;
    return transpose(be, c, d[1], d[2] * d[3]);
}

static int run_nhwc_to_nchw(Backend *be, const OpCall *c)
{
    const int64_t *d = c->in[0].shape.dim;
    return transpose(be, c, d[1] * d[2], d[3]);
}

static int run_upsample(Backend *be, const OpCall *c)
{
    const int64_t *x = c->in[0].shape.dim, *y = c->out[0].shape.dim;
    kernel_upsample((int)dtype_size(c->in[0].dtype), c->in[0].data, c->out[0].data, x[0], x[1], x[2], y[1], y[2], x[3],
                    cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_upsample_bwd(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    const int64_t *x = c->out[0].shape.dim, *y = c->in[0].shape.dim;
    TRY(t);
    kernel_upsample_bwd(t, c->in[0].data, c->out[0].data, x[0], x[1], x[2], y[1], y[2], x[3], cuda_state(be)->stream);
    return cuda_launched(c);
}

void cuda_arith_register(Backend *be)
{
    be->op[OP_ADD].run = run_add;
    be->op[OP_MUL].run = run_mul;
    be->op[OP_SCALE].run = run_scale;
    be->op[OP_ADD_BCAST].run = run_bcast;
    be->op[OP_MUL_BCAST].run = run_bcast;
    be->op[OP_SUM_BCAST].run = run_sum_bcast;
    be->op[OP_SUM_BCAST].scratch = scratch_sum_bcast;
    be->op[OP_CAST].run = run_cast;
    be->op[OP_CONCAT].run = run_concat;
    be->op[OP_SLICE].run = run_slice;
    be->op[OP_SLICE_BWD].run = run_slice_bwd;
    be->op[OP_ZERO].run = run_zero;
    be->op[OP_NCHW_TO_NHWC].run = run_nchw_to_nhwc;
    be->op[OP_NHWC_TO_NCHW].run = run_nhwc_to_nchw;
    be->op[OP_UPSAMPLE_NEAREST].run = run_upsample;
    be->op[OP_UPSAMPLE_NEAREST_BWD].run = run_upsample_bwd;
}
