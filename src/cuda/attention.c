#include "cuda/internal.h"
#include "kernels.h"

enum { HEAD_MOST = 512 };

static int check(const OpCall *c, int64_t d)
{
    return d <= HEAD_MOST ? 0 : err_set(ERR_UNSUPPORTED, "op %s: heads of %lld channels, expected at most %d on CUDA", op_name(c->kind), (long long)d, HEAD_MOST);
}

static int run_attention(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    const int64_t *q = c->in[0].shape.dim, lk = c->in[1].shape.dim[1], d = q[2] / c->attr->heads;
    TRY(t);
    TRY(check(c, d));
    kernel_attention(t, c->in[0].data, c->in[1].data, c->in[2].data, c->out[0].data, c->out[1].data, q[0], q[1], lk, c->attr->heads, d,
                     c->attr->scale, c->attr->causal, cuda_state(be)->processors, cuda_state(be)->stream);
    return cuda_launched(c);
}

static size_t scratch_attention_bwd(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)be;
    (void)nin;
    (void)out;
    (void)nout;
    return kernel_attention_bwd_scratch(in[0].shape.dim[0], in[0].shape.dim[1], attr->heads);
}

static int run_attention_bwd(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[1].dtype);
    const int64_t *q = c->in[1].shape.dim, lk = c->in[2].shape.dim[1], d = q[2] / c->attr->heads;
    TRY(t);
    TRY(check(c, d));
    kernel_attention_bwd(t, c->in[0].data, c->in[1].data, c->in[2].data, c->in[3].data, c->in[4].data, c->in[5].data, c->out[0].data,
                         c->out[1].data, c->out[2].data, q[0], q[1], lk, c->attr->heads, d, c->attr->scale, c->attr->causal, c->scratch,
                         cuda_state(be)->stream);
    return cuda_launched(c);
}

void cuda_attention_register(Backend *be)
{
    be->op[OP_ATTENTION].run = run_attention;
    be->op[OP_ATTENTION_BWD].run = run_attention_bwd;
    be->op[OP_ATTENTION_BWD].scratch = scratch_attention_bwd;
}
