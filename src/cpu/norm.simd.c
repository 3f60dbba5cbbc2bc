#include "cpu/simd.h"
#include "cpu/simd_reduce.h"

/* Norms over the last dim: a row fits the cache, so it is read again instead of kept. RMS norm is layer norm with a mean of 0 (mean
 * NULL) and without beta. */
typedef struct {
    const void *x, *dy;
    void *out;
    const float *gamma, *beta;
    float *mean, *rstd;
    float *part; /* backward: [chunks][2][channels] */
    float *dgamma, *dbeta;
    int64_t rows, channels, chunk_rows, chunks;
    float eps;
    int bf;
} LnArg;

/* Four running sums, so that the adds overlap; added pairwise at the end. */
INLINE float row_sum(const void *x, int64_t at, int64_t n, int bf)
{
    vf s[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    int64_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL)
        for (int k = 0; k < 4; k++)
            s[k] += vt_load(x, at + i + k * VL, VL, bf);
    for (; i < n; i += VL)
        s[0] += vt_load(x, at + i, lanes_at(i, n), bf);
    return vf_sum((s[0] + s[1]) + (s[2] + s[3]));
}

/* Lanes past the end must not count (0 - mean)^2, so the last vector is put to `mean` there. */
INLINE float row_dev(const void *x, int64_t at, int64_t n, float mean, int bf)
{
    const vf m = vf_set(mean);
    vf s[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    int64_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL)
        for (int k = 0; k < 4; k++) {
            vf d = vt_load(x, at + i + k * VL, VL, bf) - m;
            s[k] += d * d;
        }
    for (; i < n; i += VL) {
        int lanes = lanes_at(i, n);
        float t[VL] ALIGNED = {0};
        vf_store_n(t, vt_load(x, at + i, lanes, bf) - m, lanes);
        vf d = vf_load(t);
        s[0] += d * d;
    }
    return vf_sum((s[0] + s[1]) + (s[2] + s[3]));
}

INLINE void ln_rows(const LnArg *a, int64_t r0, int64_t r1, int bf)
{
    const int64_t ch = a->channels;
    for (int64_t r = r0; r < r1; r++) {
        float mean = a->mean ? row_sum(a->x, r * ch, ch, bf) / (float)ch : 0.0f;
        float rstd = 1.0f / sqrtf(row_dev(a->x, r * ch, ch, mean, bf) / (float)ch + a->eps);
        if (a->mean)
            a->mean[r] = mean;
        a->rstd[r] = rstd;
        for (int64_t c = 0; c < ch; c += VL) {
            int n = lanes_at(c, ch);
            vf xhat = (vt_load(a->x, r * ch + c, n, bf) - vf_set(mean)) * vf_set(rstd);
            vf beta = a->beta ? vf_load_n(a->beta + c, n) : vf_zero();
            vt_store(a->out, r * ch + c, xhat * vf_load_n(a->gamma + c, n) + beta, n, bf);
        }
    }
}

INLINE void ln_bwd_rows(const LnArg *a, int64_t r0, int64_t r1, float *dgamma, int bf)
{
    const int64_t ch = a->channels;
    float *dbeta = dgamma + ch;
    memset(dgamma, 0, (size_t)(2 * ch) * sizeof *dgamma);
    for (int64_t r = r0; r < r1; r++) {
        const vf mean = vf_set(a->mean ? a->mean[r] : 0.0f), rstd = vf_set(a->rstd[r]);
        vf s1 = vf_zero(), s2 = vf_zero();
        for (int64_t c = 0; c < ch; c += VL) {
            int n = lanes_at(c, ch);
            vf xhat = (vt_load(a->x, r * ch + c, n, bf) - mean) * rstd, dy = vt_load(a->dy, r * ch + c, n, bf);
            vf g = dy * vf_load_n(a->gamma + c, n);
            s1 += g;
            s2 += g * xhat;
            vf_store_n(dgamma + c, vf_load_n(dgamma + c, n) + dy * xhat, n);
            vf_store_n(dbeta + c, vf_load_n(dbeta + c, n) + dy, n);
        }
        const vf k1 = vf_set(a->mean ? vf_sum(s1) / (float)ch : 0.0f), k2 = vf_set(vf_sum(s2) / (float)ch);
        for (int64_t c = 0; c < ch; c += VL) {
            int n = lanes_at(c, ch);
            vf xhat = (vt_load(a->x, r * ch + c, n, bf) - mean) * rstd;
            vf g = vt_load(a->dy, r * ch + c, n, bf) * vf_load_n(a->gamma + c, n);
            vt_store(a->out, r * ch + c, (g - k1 - xhat * k2) * rstd, n, bf);
        }
    }
}

static void ln_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const LnArg *a = p;
    int64_t r0 = task * a->chunk_rows, r1 = r0 + a->chunk_rows < a->rows ? r0 + a->chunk_rows : a->rows;
    if (a->bf)
        ln_rows(a, r0, r1, 1);
    else
        ln_rows(a, r0, r1, 0);
}

static void ln_bwd_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const LnArg *a = p;
    int64_t r0 = task * a->chunk_rows, r1 = r0 + a->chunk_rows < a->rows ? r0 + a->chunk_rows : a->rows;
    float *part = a->part + task * 2 * a->channels;
    if (a->bf)
        ln_bwd_rows(a, r0, r1, part, 1);
    else
        ln_bwd_rows(a, r0, r1, part, 0);
}

static void ln_bwd_finish_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const LnArg *a = p;
    const int64_t ch = a->channels, c0 = task * 64;
    const int n = ch - c0 < 64 ? (int)(ch - c0) : 64;
    double sum[64];
    reduce_partials(a->part + c0, a->chunks, 2 * ch, n, sum);
    for (int j = 0; j < n; j++)
        a->dgamma[c0 + j] = (float)sum[j];
    if (!a->dbeta)
        return;
    reduce_partials(a->part + ch + c0, a->chunks, 2 * ch, n, sum);
    for (int j = 0; j < n; j++)
        a->dbeta[c0 + j] = (float)sum[j];
}

static void ln_shape(LnArg *a, const OpView *x)
{
    a->x = x->data;
    a->rows = shape_rows(&x->shape);
    a->channels = shape_last(&x->shape);
    a->chunk_rows = cpu_chunk_rows(a->channels);
    a->chunks = cpu_chunks(a->rows, a->channels);
    a->bf = is_bf16(x);
}

int CPU_FN(cpu_layer_norm)(Backend *be, const OpCall *c)
{
    LnArg a = {.out = c->out[0].data, .gamma = c->in[1].data, .beta = c->in[2].data, .mean = c->out[1].data,
               .rstd = c->out[2].data, .eps = c->attr->eps};
    ln_shape(&a, &c->in[0]);
    cpu_parallel_tasks(be, a.chunks, a.rows * a.channels * 8, ln_task, &a);
    return 0;
}

int CPU_FN(cpu_layer_norm_bwd)(Backend *be, const OpCall *c)
{
    LnArg a = {.dy = c->in[0].data, .out = c->out[0].data, .gamma = c->in[2].data, .mean = c->in[3].data,
               .rstd = c->in[4].data, .dgamma = c->out[1].data, .dbeta = c->out[2].data, .part = c->scratch};
    ln_shape(&a, &c->in[1]);
    cpu_parallel_tasks(be, a.chunks, a.rows * a.channels * 12, ln_bwd_task, &a);
    cpu_parallel_tasks(be, cpu_ceil_div(a.channels, 64), a.chunks * a.channels * 8, ln_bwd_finish_task, &a);
    return 0;
}

int CPU_FN(cpu_rms_norm)(Backend *be, const OpCall *c)
{
    LnArg a = {.out = c->out[0].data, .gamma = c->in[1].data, .rstd = c->out[1].data, .eps = c->attr->eps};
    ln_shape(&a, &c->in[0]);
    cpu_parallel_tasks(be, a.chunks, a.rows * a.channels * 8, ln_task, &a);
    return 0;
}

int CPU_FN(cpu_rms_norm_bwd)(Backend *be, const OpCall *c)
{
    LnArg a = {.dy = c->in[0].data, .out = c->out[0].data, .gamma = c->in[2].data, .rstd = c->in[3].data, .dgamma = c->out[1].data,
               .part = c->scratch};
    ln_shape(&a, &c->in[1]);
    cpu_parallel_tasks(be, a.chunks, a.rows * a.channels * 12, ln_bwd_task, &a);
    cpu_parallel_tasks(be, cpu_ceil_div(a.channels, 64), a.chunks * a.channels * 8, ln_bwd_finish_task, &a);
    return 0;
}

INLINE float row_dot(const void *x, const void *y, int64_t at, int64_t n, int bf)
{
    vf s[2] = {vf_zero(), vf_zero()};
    for (int64_t i = 0, k = 0; i < n; i += VL, k ^= 1) {
        int lanes = lanes_at(i, n);
        s[k] += vt_load(x, at + i, lanes, bf) * vt_load(y, at + i, lanes, bf);
    }
    return vf_sum(s[0] + s[1]);
}

static const float l2_least = 1e-12f;

INLINE void l2_rows(const LnArg *a, int64_t r0, int64_t r1, int bf)
{
    const int64_t ch = a->channels;
    for (int64_t r = r0; r < r1; r++) {
        float norm = sqrtf(row_dot(a->x, a->x, r * ch, ch, bf));
        norm = norm < l2_least ? l2_least : norm;
        a->mean[r] = norm;
        for (int64_t c = 0; c < ch; c += VL) {
            int n = lanes_at(c, ch);
            vt_store(a->out, r * ch + c, vt_load(a->x, r * ch + c, n, bf) / vf_set(norm), n, bf);
        }
    }
}

/* dx = (dy - y (y . dy)) / norm; a row clamped to the least norm was only scaled. a->x is y. */
INLINE void l2_bwd_rows(const LnArg *a, int64_t r0, int64_t r1, int bf)
{
    const int64_t ch = a->channels;
    for (int64_t r = r0; r < r1; r++) {
        float norm = a->mean[r];
        const vf dot = vf_set(norm <= l2_least ? 0.0f : row_dot(a->x, a->dy, r * ch, ch, bf));
        for (int64_t c = 0; c < ch; c += VL) {
            int n = lanes_at(c, ch);
            vf dx = (vt_load(a->dy, r * ch + c, n, bf) - vt_load(a->x, r * ch + c, n, bf) * dot) / vf_set(norm);
            vt_store(a->out, r * ch + c, dx, n, bf);
        }
    }
}

static void l2_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const LnArg *a = p;
    int64_t r0 = task * a->chunk_rows, r1 = r0 + a->chunk_rows < a->rows ? r0 + a->chunk_rows : a->rows;
    if (a->dy)
        l2_bwd_rows(a, r0, r1, a->bf);
    else
        l2_rows(a, r0, r1, a->bf);
}

int CPU_FN(cpu_l2_norm)(Backend *be, const OpCall *c)
{
    LnArg a = {.out = c->out[0].data, .mean = c->out[1].data};
    ln_shape(&a, &c->in[0]);
    cpu_parallel_tasks(be, a.chunks, a.rows * a.channels * 8, l2_task, &a);
    return 0;
}

int CPU_FN(cpu_l2_norm_bwd)(Backend *be, const OpCall *c)
{
    LnArg a = {.dy = c->in[0].data, .out = c->out[0].data, .mean = c->in[2].data};
    ln_shape(&a, &c->in[1]);
    cpu_parallel_tasks(be, a.chunks, a.rows * a.channels * 12, l2_task, &a);
    return 0;
}
