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

/* x of a product: K is its last dimension. */
static int64_t items_of(const Shape *x)
{
    return x->ndim > 1 ? x->dim[0] : 1;
}

/* y (+)= x w^T, or x w where `forward` is 0, item by item. */
static int product(Backend *be, const OpCall *c, int forward, const OpView *x, const OpView *w, const OpView *y, int add)
{
    int64_t n = w->shape.dim[0], k = w->shape.dim[1], items = items_of(&x->shape), rows = items ? shape_rows(&x->shape) / items : 0;
    int64_t in_row = forward ? k : n, out_row = forward ? n : k;
    size_t es = dtype_size(y->dtype);
    Gemm g = {forward ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N, out_row, rows, in_row, k, in_row, x->dtype, y->dtype};
    for (int64_t item = 0; item < items; item++)
        TRY(gemm(be, c, &g, w->data, (const char *)x->data + (size_t)(item * rows * in_row) * es,
                 (char *)y->data + (size_t)(item * rows * out_row) * es, add ? 1.0f : 0.0f));
    return 0;
}

/* y = x w^T (+ bias) (+ res). res comes first, with the bias where there is one: the product is added to both in one pass. */
static int rows_with(Backend *be, const OpCall *c, int forward, const float *bias, const void *res)
{
    OpView *y = &c->out[0];
    int64_t count = shape_count(&y->shape), n = shape_last(&y->shape);
    int t = cuda_type(c, y->dtype);
    void *stream = cuda_state(be)->stream;
    if (res && bias)
        kernel_add_rows(t, KERNEL_F32, res, bias, y->data, count / n, n, 1, 1, stream);
    else if (res && res != y->data)
        TRY(cuda_check(cudaMemcpyAsync(y->data, res, (size_t)count * dtype_size(y->dtype), cudaMemcpyDeviceToDevice, stream), "residual"));
    TRY(product(be, c, forward, &c->in[0], &c->in[1], y, res != NULL));
    if (bias && !res)
        kernel_add_rows(t, KERNEL_F32, y->data, bias, y->data, count / n, n, 1, 1, stream);
    return 0;
}

static int run_rows(Backend *be, const OpCall *c)
{
    int forward = c->kind == OP_LINEAR, i = 2;
    TRY(cuda_type(c, c->in[0].dtype));
    const float *bias = c->attr->has & OP_HAS_BIAS ? c->in[i++].data : NULL;
    TRY(rows_with(be, c, forward, bias, c->attr->has & OP_HAS_RES ? c->in[i].data : NULL));
    return cuda_launched(c);
}

/* Whether the fused kernel runs: by the shape of one item. Above LOW_MULTIPLIES its mma.sync products are expected to lose more to
 * cuBLAS than the passes over x and y cost that it saves; an estimate, measured on no GPU. */
static const int64_t LOW_MULTIPLIES = (int64_t)1 << 32;

static int low_fused(const CudaState *st, const OpCall *c, const KernelLow *g)
{
    if (c->in[0].dtype != DTYPE_BF16 || g->rank > KERNEL_LOW_MOST || g->k % 8 || g->n % 8)
        return 0;
    int64_t items = items_of(&c->in[0].shape);
    return st->low_rank == CUDA_LOW_RANK_ALL || (double)(g->rows / (items ? items : 1)) * (double)g->k * (double)g->n <= (double)LOW_MULTIPLIES;
}

static int run_low(Backend *be, const OpCall *c)
{
    int forward = c->kind == OP_LINEAR_LOW, i = 4, t = cuda_type(c, c->in[0].dtype);
    TRY(t);
    const OpView *y = &c->out[0], *u = &c->out[1];
    KernelLow g = {.rows = shape_rows(&c->in[0].shape), .k = shape_last(&c->in[0].shape), .n = shape_last(&y->shape),
                   .rank = (int)shape_last(&u->shape), .transposed = !forward, .factor = c->attr->scale};
    const float *bias = c->attr->has & OP_HAS_BIAS ? c->in[i++].data : NULL;
    const void *res = c->attr->has & OP_HAS_RES ? c->in[i++].data : NULL;
    const float *s = c->attr->has & OP_HAS_LOW_S ? c->in[i].data : NULL;
    void *stream = cuda_state(be)->stream;
    if (low_fused(cuda_state(be), c, &g)) {
        kernel_linear_low(c->in[0].data, c->in[1].data, c->in[2].data, c->in[3].data, bias, res, s, y->data, u->data, &g, stream);
        return cuda_launched(c);
    }
    TRY(product(be, c, forward, &c->in[0], &c->in[2], u, 0));
    kernel_scale(t, u->data, s, g.factor, u->data, shape_count(&u->shape), stream);
    TRY(rows_with(be, c, forward, bias, res));
    TRY(product(be, c, forward, u, &c->in[3], y, 1));
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
    be->op[OP_LINEAR_LOW].run = be->op[OP_LINEAR_LOW_BWD_X].run = run_low;
    be->fuses |= cuda_state(be)->low_rank != CUDA_LOW_RANK_OFF ? BACKEND_FUSE_LOW_RANK : 0;
    be->op[OP_LINEAR_BWD_W].run = run_bwd_w;
    be->op[OP_BIAS_GRAD].run = run_bias_grad;
    be->op[OP_BIAS_GRAD].scratch = scratch_bias_grad;
}
