/* Matrix products through cuBLAS. Row-major x[M,K] is the column-major [K,M] of the same memory, so y = x w^T is asked for as
 * y^T = w x^T. */
#include <string.h>

#include "cuda/internal.h"
#include "kernels.h"

static cudaDataType_t blas_type(Dtype t)
{
    return t == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

typedef struct {
    cublasOperation_t a, b;
    int64_t m, n, k, lda, ldb; /* ldc = m */
    Dtype in, out;
} Gemm;

static int gemm(Backend *be, const OpCall *c, const Gemm *g, const void *a, const void *b, void *y, float beta)
{
    CudaState *st = cuda_state(be);
    const float one = 1.0f;
    if (!g->m || !g->n)
        return 0;
    cublasStatus_t s = st->blas.gemm(st->handle, g->a, g->b, (int)g->m, (int)g->n, (int)g->k, &one, a, blas_type(g->in), (int)g->lda, b,
                                     blas_type(g->in), (int)g->ldb, &beta, y, blas_type(g->out), (int)g->m, CUBLAS_COMPUTE_32F,
                                     CUBLAS_GEMM_DEFAULT);
    return s == CUBLAS_STATUS_SUCCESS ? 0 : err_set(ERR_BACKEND, "op %s: cuBLAS status %d", op_name(c->kind), (int)s);
}

/* y = x w^T or dx = dy w, item by item; res is added from the start, the bias afterwards. */
static int run_rows(Backend *be, const OpCall *c)
{
    int forward = c->kind == OP_LINEAR, t = cuda_type(c, c->in[0].dtype), i = 2;
    TRY(t);
    const Shape *x = &c->in[0].shape, *w = &c->in[1].shape;
    int64_t n = w->dim[0], k = w->dim[1], items = x->ndim > 1 ? x->dim[0] : 1, rows = shape_rows(x) / (items ? items : 1);
    const float *bias = forward && c->attr->has & OP_HAS_BIAS ? c->in[i++].data : NULL;
    const void *res = c->attr->has & OP_HAS_RES ? c->in[i].data : NULL;
    OpView *y = &c->out[0];
    size_t es = dtype_size(y->dtype);
    int64_t in_row = forward ? k : n, out_row = forward ? n : k;
    if (res && res != y->data)
        TRY(cuda_check(cudaMemcpyAsync(y->data, res, (size_t)shape_count(&y->shape) * es, cudaMemcpyDeviceToDevice, cuda_state(be)->stream),
                       "residual"));
    Gemm g = {forward ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N, out_row, rows, in_row, k, in_row, c->in[0].dtype, y->dtype};
    for (int64_t item = 0; item < items; item++)
        TRY(gemm(be, c, &g, c->in[1].data, (const char *)c->in[0].data + (size_t)(item * rows * in_row) * es,
                 (char *)y->data + (size_t)(item * rows * out_row) * es, res ? 1.0f : 0.0f));
    if (bias)
        kernel_add_rows(t, KERNEL_F32, y->data, bias, y->data, items * rows, out_row, 1, 1, cuda_state(be)->stream);
    return cuda_launched(c);
}

static int run_bwd_w(Backend *be, const OpCall *c)
{
    int64_t n = shape_last(&c->in[0].shape), k = shape_last(&c->in[1].shape), rows = shape_rows(&c->in[0].shape);
    Gemm g = {CUBLAS_OP_N, CUBLAS_OP_T, k, n, rows, k, n, c->in[0].dtype, c->out[0].dtype};
    TRY(cuda_type(c, c->in[0].dtype));
    return gemm(be, c, &g, c->in[1].data, c->in[0].data, c->out[0].data, 0.0f);
}

static size_t scratch_bias_grad(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)be;
    (void)attr;
    (void)nin;
    (void)out;
    (void)nout;
    return kernel_sum_rows_scratch(1, shape_rows(&in[0].shape), shape_last(&in[0].shape));
}

static int run_bias_grad(Backend *be, const OpCall *c)
{
    int t = cuda_type(c, c->in[0].dtype);
    const Shape *s = &c->in[0].shape;
    TRY(t);
    kernel_sum_rows(t, KERNEL_F32, c->in[0].data, c->out[0].data, 1, shape_rows(s), shape_last(s), c->scratch, cuda_state(be)->stream);
    return cuda_launched(c);
}

void cuda_linear_register(Backend *be)
{
    be->op[OP_LINEAR].run = run_rows;
    be->op[OP_LINEAR_BWD_X].run = run_rows;
    be->op[OP_LINEAR_BWD_W].run = run_bwd_w;
    be->op[OP_BIAS_GRAD].run = run_bias_grad;
    be->op[OP_BIAS_GRAD].scratch = scratch_bias_grad;
}
