#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/lora_impl.h"

/* c[m,n] = a[m,k] b[k,n] */
static void matmul(double *c, const float *a, const float *b, int64_t m, int64_t k, int64_t n)
{
    memset(c, 0, (size_t)(m * n) * sizeof *c);
#pragma omp parallel for schedule(static) if (m > 1)
    for (int64_t i = 0; i < m; i++)
        for (int64_t l = 0; l < k; l++) {
            double v = (double)a[i * k + l];
            for (int64_t j = 0; j < n; j++)
                c[i * n + j] += v * (double)b[l * n + j];
        }
}

/* A factor given whole or as a product, [rows, *cols] in double; heap. */
static double *dense(const LoraPart *p, NnFactor whole, NnFactor a, NnFactor b, int64_t *rows, int64_t *cols)
{
    const Shape *s = &p->shape[p->f[whole] ? whole : a], *t = &p->shape[p->f[whole] ? whole : b];
    *rows = s->dim[0];
    *cols = shape_count(t) / t->dim[0];
    double *v = malloc((size_t)(*rows * *cols) * sizeof *v);
    if (!v) {
        err_set(ERR_NOMEM, "LoRA module '%s': out of memory", p->path);
        return NULL;
    }
    if (!p->f[whole])
        matmul(v, p->f[a], p->f[b], *rows, shape_count(s) / *rows, *cols);
    else
        for (int64_t i = 0; i < *rows * *cols; i++)
            v[i] = (double)p->f[whole][i];
    return v;
}

static int delta_pair(const LoraPart *p, float *out, double factor)
{
    int64_t rows = p->shape[NN_UP].dim[0], rank = p->shape[NN_DOWN].dim[0], cols = shape_count(&p->shape[NN_DOWN]) / rank;
    int failed = 0;
#pragma omp parallel
    {
        double *sum = malloc((size_t)cols * sizeof *sum);
#pragma omp for schedule(static) reduction(| : failed)
        for (int64_t i = 0; i < rows; i++) {
            if (!sum) {
                failed = 1;
                continue;
            }
            matmul(sum, p->f[NN_UP] + i * rank, p->f[NN_DOWN], 1, rank, cols);
            for (int64_t j = 0; j < cols; j++)
                out[i * cols + j] = (float)(factor * sum[j]);
        }
        free(sum);
    }
    return failed ? err_set(ERR_NOMEM, "LoRA module '%s': out of memory", p->path) : 0;
}

static int delta_two(const LoraPart *p, float *out, double factor)
{
    int64_t a, b, c, d;
    double *u = dense(p, NN_W1, NN_W1_A, NN_W1_B, &a, &b), *v = dense(p, NN_W2, NN_W2_A, NN_W2_B, &c, &d);
    if (u && v && p->kind == NN_ADAPTER_LOHA)
        for (int64_t i = 0; i < a * b; i++)
            out[i] = (float)(factor * u[i] * v[i]);
    else if (u && v)
        for (int64_t i = 0; i < a; i++)
            for (int64_t k = 0; k < c; k++)
                for (int64_t j = 0; j < b; j++)
                    for (int64_t l = 0; l < d; l++)
                        out[((i * c + k) * b + j) * d + l] = (float)(factor * u[i * b + j] * v[k * d + l]);
    int rc = u && v ? 0 : ERR_NOMEM;
    free(u);
    free(v);
    return rc;
}

int lora_delta(const LoraPart *p, float *out)
{
    double factor = (double)p->alpha / p->rank;
    int64_t n = shape_count(&p->weight);
    if (p->kind == NN_ADAPTER_LORA)
        return delta_pair(p, out, factor);
    if (p->kind != NN_ADAPTER_FULL)
        return delta_two(p, out, factor);
    memset(out, 0, (size_t)n * sizeof *out);
    for (int64_t i = 0; p->f[NN_DIFF] && i < n; i++)
        out[i] = (float)(factor * (double)p->f[NN_DIFF][i]);
    return 0;
}

/* ---- norms ---- */

/* g[r,r] = m m^T, m [r,n] with strides. */
static void gram(double *g, const float *m, int64_t r, int64_t n, int64_t row, int64_t col)
{
    for (int64_t i = 0; i < r; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = 0;
            for (int64_t k = 0; k < n; k++)
                sum += (double)m[i * row + k * col] * (double)m[j * row + k * col];
            g[i * r + j] = g[j * r + i] = sum;
        }
}

/* |up down|^2 = sum of (up^T up) * (down down^T). */
static int pair_norm(const LoraPart *p, double *norm)
{
    int64_t rank = p->shape[NN_DOWN].dim[0], rows = p->shape[NN_UP].dim[0], cols = shape_count(&p->shape[NN_DOWN]) / rank;
    double sum = 0, *g = malloc((size_t)(2 * rank * rank) * sizeof *g);
    if (!g)
        return err_set(ERR_NOMEM, "LoRA module '%s': out of memory", p->path);
    gram(g, p->f[NN_DOWN], rank, cols, cols, 1);
    gram(g + rank * rank, p->f[NN_UP], rank, rows, 1, rank);
    for (int64_t i = 0; i < rank * rank; i++)
        sum += g[i] * g[rank * rank + i];
    free(g);
    *norm = fabs((double)p->alpha / p->rank) * sqrt(sum > 0 ? sum : 0);
    return 0;
}

int lora_norm(const LoraPart *p, double *norm)
{
    if (p->kind == NN_ADAPTER_LORA)
        return pair_norm(p, norm);
    int64_t n = shape_count(&p->weight);
    double sum = 0;
    float *d = malloc((size_t)n * sizeof *d);
    int rc = d ? lora_delta(p, d) : err_set(ERR_NOMEM, "LoRA module '%s': out of memory", p->path);
    for (int64_t i = 0; rc >= 0 && i < n; i++)
        sum += (double)d[i] * (double)d[i];
    free(d);
    *norm = sqrt(sum);
    return rc;
}

int lora_limit_norm(Lora *lo, float limit, int *scaled)
{
    *scaled = 0;
    for (int i = 0; i < lo->count; i++) {
        LoraPart *p = &lo->part[i];
        double norm;
        int n = 0;
        TRY(lora_norm(p, &norm));
        if (!(norm > (double)limit))
            continue;
        for (int k = 0; k <= NN_DIFF; k++)
            n += p->f[k] != NULL;
        float ratio = (float)pow((double)limit / norm, 1.0 / n);
        for (int k = 0; k <= NN_DIFF; k++)
            for (int64_t j = 0; p->f[k] && j < shape_count(&p->shape[k]); j++)
                p->f[k][j] *= ratio;
        (*scaled)++;
    }
    return 0;
}

/* ---- merging ---- */

/* One row of W, [cols]: W += scale * (gain * (W + d) - W), gain 1 without a magnitude. */
static int merge_row(void *row, Dtype dtype, float *tmp, const float *d, int64_t cols, double scale, const float *magnitude)
{
    double gain = 1, sum = 0;
    TRY(dtype_convert(tmp, DTYPE_F32, row, dtype, cols));
    for (int64_t j = 0; magnitude && j < cols; j++)
        sum += ((double)tmp[j] + (double)d[j]) * ((double)tmp[j] + (double)d[j]);
    if (magnitude)
        gain = (double)*magnitude / sqrt(sum);
    for (int64_t j = 0; j < cols; j++) {
        double w = (double)tmp[j];
        tmp[j] = (float)(magnitude ? w + scale * (gain * (w + (double)d[j]) - w) : w + scale * (double)d[j]);
    }
    return dtype_convert(row, dtype, tmp, DTYPE_F32, cols);
}

static int merge_rows(const LoraPart *p, NnParam *w, double scale, const float *d)
{
    int64_t rows = p->weight.dim[0], cols = shape_count(&p->weight) / rows;
    if (p->weight.ndim < 2)
        rows = 1, cols = shape_count(&p->weight);
    if (shape_count(&w->shape) != rows * cols)
        return err_set(ERR_SHAPE, "LoRA module '%s' does not fit the weight", p->path);
    int failed = 0; /* messages are kept per thread: the caller's is set below */
#pragma omp parallel
    {
        float *tmp = malloc((size_t)cols * sizeof *tmp);
#pragma omp for schedule(static) reduction(| : failed)
        for (int64_t i = 0; i < rows; i++) {
            void *row = (char *)w->data + (size_t)(i * cols) * dtype_size(w->dtype);
            const float *gain = p->f[NN_MAGNITUDE] ? p->f[NN_MAGNITUDE] + i : NULL;
            failed |= !tmp || merge_row(row, w->dtype, tmp, d + i * cols, cols, scale, gain) < 0;
        }
        free(tmp);
    }
    nn_param_touch(w);
    return failed ? err_set(ERR_NOMEM, "LoRA module '%s': out of memory, or a weight that is not F32, F16 or BF16", p->path) : 0;
}

static int merge_bias(const LoraPart *p, NnParams *ps, double scale)
{
    char name[NN_PATH_MAX + 16];
    int64_t n = shape_count(&p->shape[NN_DIFF_B]);
    snprintf(name, sizeof name, "%s.bias", p->path);
    NnParam *b = nn_params_find(ps, name);
    if (!b)
        return 0;
    if (b->dtype != DTYPE_F32 || shape_count(&b->shape) != n)
        return err_set(ERR_SHAPE, "LoRA module '%s' does not fit the bias", p->path);
    TRY(nn_param_own(b));
    for (int64_t i = 0; i < n; i++)
        ((float *)b->data)[i] += (float)(scale * (double)p->f[NN_DIFF_B][i]);
    nn_param_touch(b);
    return 0;
}

int lora_merge(Lora *lo, NnParams *ps, float scale)
{
    char name[NN_PATH_MAX + 16];
    for (int i = 0; i < lo->count; i++) {
        const LoraPart *p = &lo->part[i];
        snprintf(name, sizeof name, "%s.weight", p->path);
        NnParam *w = nn_params_find(ps, name);
        if (!w)
            continue;
        TRY(nn_param_own(w));
        float *d = malloc((size_t)shape_count(&p->weight) * sizeof *d);
        int rc = d ? lora_delta(p, d) : err_set(ERR_NOMEM, "LoRA module '%s': out of memory", p->path);
        if (rc >= 0)
            rc = merge_rows(p, w, (double)scale, d);
        free(d);
        TRY_CTX(rc, "merging LoRA module '%s'", p->path);
        if (p->f[NN_DIFF_B])
            TRY(merge_bias(p, ps, (double)scale));
    }
    return 0;
}
