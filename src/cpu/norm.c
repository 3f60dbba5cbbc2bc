#include "cpu/norm.h"

#include <math.h>
#include <string.h>

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static int f64_group_norm(Backend *be, const OpCall *c)
{
    (void)be;
    const double *x = c->in[0].data, *gamma = c->in[1].data, *beta = c->in[2].data;
    double *y = c->out[0].data, *mean = c->out[1].data, *rstd = c->out[2].data;
    NormGroup g = norm_group(&c->in[0].shape, c->attr->groups);
    double count = (double)(g.rows * g.width);
    for (int64_t k = 0; k < g.items * g.groups; k++) {
        int64_t c0 = k % g.groups * g.width;
        const double *xi = x + k / g.groups * g.rows * g.channels;
        double *yi = y + k / g.groups * g.rows * g.channels, m = 0, v = 0;
        for (int64_t r = 0; r < g.rows; r++)
            for (int64_t ch = c0; ch < c0 + g.width; ch++)
                m += xi[r * g.channels + ch] / count;
        for (int64_t r = 0; r < g.rows; r++)
            for (int64_t ch = c0; ch < c0 + g.width; ch++)
                v += (xi[r * g.channels + ch] - m) * (xi[r * g.channels + ch] - m) / count;
        mean[k] = m;
        rstd[k] = 1 / sqrt(v + (double)c->attr->eps);
        for (int64_t r = 0; r < g.rows; r++)
            for (int64_t ch = c0; ch < c0 + g.width; ch++) {
                double z = (xi[r * g.channels + ch] - m) * rstd[k] * gamma[ch] + beta[ch];
                yi[r * g.channels + ch] = c->attr->act == ACT_SILU ? z * sigmoid(z) : z;
            }
    }
    return 0;
}

static int f64_group_norm_bwd(Backend *be, const OpCall *c)
{
    (void)be;
    const double *dy = c->in[0].data, *x = c->in[1].data, *gamma = c->in[2].data, *beta = c->in[3].data;
    const double *mean = c->in[4].data, *rstd = c->in[5].data;
    double *dx = c->out[0].data, *dgamma = c->out[1].data, *dbeta = c->out[2].data;
    NormGroup g = norm_group(&c->in[1].shape, c->attr->groups);
    double count = (double)(g.rows * g.width);
    memset(dgamma, 0, (size_t)g.channels * sizeof *dgamma);
    memset(dbeta, 0, (size_t)g.channels * sizeof *dbeta);
    for (int64_t k = 0; k < g.items * g.groups; k++) {
        int64_t c0 = k % g.groups * g.width, base = k / g.groups * g.rows * g.channels;
        double s1 = 0, s2 = 0;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t r = 0; r < g.rows; r++)
                for (int64_t ch = c0; ch < c0 + g.width; ch++) {
                    int64_t i = base + r * g.channels + ch;
                    double xhat = (x[i] - mean[k]) * rstd[k], z = xhat * gamma[ch] + beta[ch], s = sigmoid(z);
                    double dz = c->attr->act == ACT_SILU ? dy[i] * s * (1 + z * (1 - s)) : dy[i];
                    if (pass == 1) {
                        dx[i] = rstd[k] * (dz * gamma[ch] - s1 - xhat * s2);
                        continue;
                    }
                    s1 += dz * gamma[ch] / count;
                    s2 += dz * gamma[ch] * xhat / count;
                    dgamma[ch] += dz * xhat;
                    dbeta[ch] += dz;
                }
    }
    return 0;
}

static int f64_layer_norm(Backend *be, const OpCall *c)
{
    (void)be;
    const double *x = c->in[0].data, *gamma = c->in[1].data, *beta = c->in[2].data;
    double *y = c->out[0].data, *mean = c->out[1].data, *rstd = c->out[2].data;
    int64_t rows = shape_rows(&c->in[0].shape), n = shape_last(&c->in[0].shape);
    for (int64_t r = 0; r < rows; r++) {
        double m = 0, v = 0;
        for (int64_t i = 0; i < n; i++)
            m += x[r * n + i] / (double)n;
        for (int64_t i = 0; i < n; i++)
            v += (x[r * n + i] - m) * (x[r * n + i] - m) / (double)n;
        mean[r] = m;
        rstd[r] = 1 / sqrt(v + (double)c->attr->eps);
        for (int64_t i = 0; i < n; i++)
            y[r * n + i] = (x[r * n + i] - m) * rstd[r] * gamma[i] + beta[i];
    }
    return 0;
}

static int f64_layer_norm_bwd(Backend *be, const OpCall *c)
{
    (void)be;
    const double *dy = c->in[0].data, *x = c->in[1].data, *gamma = c->in[2].data, *mean = c->in[3].data;
    const double *rstd = c->in[4].data;
    double *dx = c->out[0].data, *dgamma = c->out[1].data, *dbeta = c->out[2].data;
    int64_t rows = shape_rows(&c->in[1].shape), n = shape_last(&c->in[1].shape);
    memset(dgamma, 0, (size_t)n * sizeof *dgamma);
    memset(dbeta, 0, (size_t)n * sizeof *dbeta);
    for (int64_t r = 0; r < rows; r++) {
        double s1 = 0, s2 = 0;
        for (int64_t i = 0; i < n; i++) {
            double xhat = (x[r * n + i] - mean[r]) * rstd[r], d = dy[r * n + i];
            s1 += d * gamma[i] / (double)n;
            s2 += d * gamma[i] * xhat / (double)n;
            dgamma[i] += d * xhat;
            dbeta[i] += d;
        }
        for (int64_t i = 0; i < n; i++) {
            double xhat = (x[r * n + i] - mean[r]) * rstd[r];
            dx[r * n + i] = rstd[r] * (dy[r * n + i] * gamma[i] - s1 - xhat * s2);
        }
    }
    return 0;
}

static int f64_rms_norm(Backend *be, const OpCall *c)
{
    (void)be;
    const double *x = c->in[0].data, *gamma = c->in[1].data;
    double *y = c->out[0].data, *rstd = c->out[1].data;
    int64_t rows = shape_rows(&c->in[0].shape), n = shape_last(&c->in[0].shape);
    for (int64_t r = 0; r < rows; r++) {
        double s = 0;
        for (int64_t i = 0; i < n; i++)
            s += x[r * n + i] * x[r * n + i] / (double)n;
        rstd[r] = 1 / sqrt(s + (double)c->attr->eps);
        for (int64_t i = 0; i < n; i++)
            y[r * n + i] = x[r * n + i] * rstd[r] * gamma[i];
    }
    return 0;
}

static int f64_rms_norm_bwd(Backend *be, const OpCall *c)
{
    (void)be;
    const double *dy = c->in[0].data, *x = c->in[1].data, *gamma = c->in[2].data, *rstd = c->in[3].data;
    double *dx = c->out[0].data, *dgamma = c->out[1].data;
    int64_t rows = shape_rows(&c->in[1].shape), n = shape_last(&c->in[1].shape);
    memset(dgamma, 0, (size_t)n * sizeof *dgamma);
    for (int64_t r = 0; r < rows; r++) {
        double dot = 0;
        for (int64_t i = 0; i < n; i++) {
            dot += dy[r * n + i] * gamma[i] * x[r * n + i] * rstd[r] / (double)n;
            dgamma[i] += dy[r * n + i] * x[r * n + i] * rstd[r];
        }
        for (int64_t i = 0; i < n; i++)
            dx[r * n + i] = rstd[r] * (dy[r * n + i] * gamma[i] - x[r * n + i] * rstd[r] * dot);
    }
    return 0;
}

static const double l2_least = 1e-12;

static int f64_l2_norm(Backend *be, const OpCall *c)
{
    (void)be;
    const double *x = c->in[0].data;
    double *y = c->out[0].data, *norm = c->out[1].data;
    int64_t rows = shape_rows(&c->in[0].shape), n = shape_last(&c->in[0].shape);
    for (int64_t r = 0; r < rows; r++) {
        double s = 0;
        for (int64_t i = 0; i < n; i++)
            s += x[r * n + i] * x[r * n + i];
        norm[r] = fmax(sqrt(s), l2_least);
        for (int64_t i = 0; i < n; i++)
            y[r * n + i] = x[r * n + i] / norm[r];
    }
    return 0;
}

static int f64_l2_norm_bwd(Backend *be, const OpCall *c)
{
    (void)be;
    const double *dy = c->in[0].data, *y = c->in[1].data, *norm = c->in[2].data;
    double *dx = c->out[0].data;
    int64_t rows = shape_rows(&c->in[1].shape), n = shape_last(&c->in[1].shape);
    for (int64_t r = 0; r < rows; r++) {
        double dot = 0;
        for (int64_t i = 0; i < n && norm[r] > l2_least; i++)
            dot += y[r * n + i] * dy[r * n + i];
        for (int64_t i = 0; i < n; i++)
            dx[r * n + i] = (dy[r * n + i] - y[r * n + i] * dot) / norm[r];
    }
    return 0;
}

CPU_OP(group_norm, in[0])
CPU_OP(group_norm_bwd, in[1])
CPU_OP(layer_norm, in[0])
CPU_OP(layer_norm_bwd, in[1])
CPU_OP(rms_norm, in[0])
CPU_OP(rms_norm_bwd, in[1])
CPU_OP(l2_norm, in[0])
CPU_OP(l2_norm_bwd, in[1])

static size_t scratch_group_norm(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)be;
    (void)nin;
    (void)nout;
    (void)in;
    if (out[0].dtype == DTYPE_F64)
        return 0;
    NormGroup g = norm_group(&out[0].shape, attr->groups);
    return norm_group_scratch(&g);
}

static size_t scratch_layer_norm_bwd(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)be;
    (void)attr;
    (void)in;
    (void)nin;
    (void)nout;
    if (out[0].dtype == DTYPE_F64)
        return 0;
    int64_t ch = shape_last(&out[0].shape), chunks = cpu_chunks(shape_rows(&out[0].shape), ch);
    return (size_t)(chunks * 2 * ch) * sizeof(float);
}

void cpu_norm_register(Backend *be)
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
