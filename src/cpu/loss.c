#include "cpu/loss.h"

#include <math.h>

static int f64_pair(const OpCall *c, int l1)
{
    const double *x = c->in[0].data, *y = c->in[1].data, *weight = c->in[2].data;
    double *loss = c->out[0].data;
    LossItems g = loss_items(&c->in[0].shape);
    for (int64_t n = 0; n < g.items; n++) {
        double s = 0;
        for (int64_t i = n * g.count; i < (n + 1) * g.count; i++)
            s += l1 ? fabs(x[i] - y[i]) : (x[i] - y[i]) * (x[i] - y[i]);
        loss[n] = weight[n] * s / (double)g.count;
    }
    return 0;
}

static int f64_pair_bwd(const OpCall *c, int l1)
{
    const double *dl = c->in[0].data, *x = c->in[1].data, *y = c->in[2].data, *weight = c->in[3].data;
    double *dx = c->out[0].data;
    LossItems g = loss_items(&c->in[1].shape);
    for (int64_t n = 0; n < g.items; n++)
        for (int64_t i = n * g.count; i < (n + 1) * g.count; i++) {
            double d = x[i] - y[i];
            dx[i] = dl[n] * weight[n] / (double)g.count * (l1 ? (d > 0 ? 1 : d < 0 ? -1 : d) : 2 * d);
        }
    return 0;
}

static int f64_mse(Backend *be, const OpCall *c)
{
    (void)be;
    return f64_pair(c, 0);
}

static int f64_l1(Backend *be, const OpCall *c)
{
    (void)be;
    return f64_pair(c, 1);
}

static int f64_mse_bwd(Backend *be, const OpCall *c)
{
    (void)be;
    return f64_pair_bwd(c, 0);
}

static int f64_l1_bwd(Backend *be, const OpCall *c)
{
    (void)be;
    return f64_pair_bwd(c, 1);
}

static int xent_check(const OpCall *c, const OpView *x, const OpView *target)
{
    const int32_t *t = target->data;
    for (int64_t r = 0; r < x->shape.dim[0]; r++)
        if (t[r] < 0 || t[r] >= x->shape.dim[1])
            return err_set(ERR_RANGE, "%s: target[%lld] is %d, expected 0..%lld", op_name(c->kind), (long long)r,
                           (int)t[r], (long long)x->shape.dim[1] - 1);
    return 0;
}

/* log of the sum of exp(x[0..n)) */
static double log_sum_exp(const double *x, int64_t n)
{
    double top = x[0], s = 0;
    for (int64_t i = 1; i < n; i++)
        top = fmax(top, x[i]);
    for (int64_t i = 0; i < n; i++)
        s += exp(x[i] - top);
    return top + log(s);
}

static int f64_xent(Backend *be, const OpCall *c)
{
    (void)be;
    const double *x = c->in[0].data;
    const int32_t *target = c->in[1].data;
    double *loss = c->out[0].data;
    int64_t rows = c->in[0].shape.dim[0], n = c->in[0].shape.dim[1];
    for (int64_t r = 0; r < rows; r++)
        loss[r] = log_sum_exp(x + r * n, n) - x[r * n + target[r]];
    return 0;
}

static int f64_xent_bwd(Backend *be, const OpCall *c)
{
    (void)be;
    const double *dl = c->in[0].data, *x = c->in[1].data;
    const int32_t *target = c->in[2].data;
    double *dx = c->out[0].data;
    int64_t rows = c->in[1].shape.dim[0], n = c->in[1].shape.dim[1];
    for (int64_t r = 0; r < rows; r++) {
        double lse = log_sum_exp(x + r * n, n);
        for (int64_t i = 0; i < n; i++)
            dx[r * n + i] = dl[r] * (exp(x[r * n + i] - lse) - (i == target[r]));
    }
    return 0;
}

CPU_DECLARE(cpu_xent);
CPU_DECLARE(cpu_xent_bwd);

static int run_xent(Backend *be, const OpCall *c)
{
    Dtype t = c->in[0].dtype;
    TRY(xent_check(c, &c->in[0], &c->in[1]));
    if (t == DTYPE_F64)
        return f64_xent(be, c);
    if (t != DTYPE_F32 && t != DTYPE_BF16)
        return cpu_op_unsupported(c, t);
    return CPU_PICK(((const CpuState *)be->impl)->isa, cpu_xent)(be, c);
}

static int run_xent_bwd(Backend *be, const OpCall *c)
{
    Dtype t = c->in[1].dtype;
    TRY(xent_check(c, &c->in[1], &c->in[2]));
    if (t == DTYPE_F64)
        return f64_xent_bwd(be, c);
    if (t != DTYPE_F32 && t != DTYPE_BF16)
        return cpu_op_unsupported(c, t);
    return CPU_PICK(((const CpuState *)be->impl)->isa, cpu_xent_bwd)(be, c);
}

static double clamp_logvar(double v)
{
    return v < -30 ? -30 : v > 20 ? 20 : v;
}

static int inside_clamp(double v)
{
    return v >= -30 && v <= 20;
}

static int f64_gauss_sample(Backend *be, const OpCall *c)
{
    (void)be;
    const double *m = c->in[0].data, *noise = c->in[1].data;
    double *z = c->out[0].data;
    int64_t rows = shape_rows(&c->in[0].shape), w = shape_last(&c->in[0].shape) / 2;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < w; i++)
            z[r * w + i] = m[r * 2 * w + i] + exp(0.5 * clamp_logvar(m[r * 2 * w + w + i])) * noise[r * w + i];
    return 0;
}

static int f64_gauss_sample_bwd(Backend *be, const OpCall *c)
{
    (void)be;
    const double *dz = c->in[0].data, *m = c->in[1].data, *noise = c->in[2].data;
    double *dm = c->out[0].data;
    int64_t rows = shape_rows(&c->in[1].shape), w = shape_last(&c->in[1].shape) / 2;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < w; i++) {
            double lv = m[r * 2 * w + w + i], d = dz[r * w + i];
            dm[r * 2 * w + i] = d;
            dm[r * 2 * w + w + i] = inside_clamp(lv) ? 0.5 * d * noise[r * w + i] * exp(0.5 * lv) : 0;
        }
    return 0;
}

static int f64_kl(Backend *be, const OpCall *c)
{
    (void)be;
    const double *m = c->in[0].data, *weight = c->in[1].data;
    double *kl = c->out[0].data;
    LossMoments g = loss_moments(&c->in[0].shape);
    for (int64_t n = 0; n < g.items; n++) {
        double s = 0;
        for (int64_t r = n * g.rows; r < (n + 1) * g.rows; r++)
            for (int64_t i = 0; i < g.width; i++) {
                double mean = m[r * 2 * g.width + i], lv = clamp_logvar(m[r * 2 * g.width + g.width + i]);
                s += mean * mean + exp(lv) - 1 - lv;
            }
        kl[n] = weight[n] * 0.5 * s / (double)(g.rows * g.width);
    }
    return 0;
}

static int f64_kl_bwd(Backend *be, const OpCall *c)
{
    (void)be;
    const double *dk = c->in[0].data, *m = c->in[1].data, *weight = c->in[2].data;
    double *dm = c->out[0].data;
    LossMoments g = loss_moments(&c->in[1].shape);
    for (int64_t n = 0; n < g.items; n++) {
        double k = dk[n] * weight[n] / (double)(g.rows * g.width);
        for (int64_t r = n * g.rows; r < (n + 1) * g.rows; r++)
            for (int64_t i = 0; i < g.width; i++) {
                double lv = m[r * 2 * g.width + g.width + i];
                dm[r * 2 * g.width + i] = k * m[r * 2 * g.width + i];
                dm[r * 2 * g.width + g.width + i] = inside_clamp(lv) ? 0.5 * k * (exp(lv) - 1) : 0;
            }
    }
    return 0;
}

CPU_OP(mse, in[0])
CPU_OP(mse_bwd, in[1])
CPU_OP(l1, in[0])
CPU_OP(l1_bwd, in[1])
CPU_OP(gauss_sample, in[0])
CPU_OP(gauss_sample_bwd, in[1])
CPU_OP(kl, in[0])
CPU_OP(kl_bwd, in[1])

static size_t scratch_pair(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)be;
    (void)attr;
    (void)nin;
    (void)out;
    (void)nout;
    LossItems g = loss_items(&in[0].shape);
    return in[0].dtype == DTYPE_F64 ? 0 : (size_t)(g.items * g.pieces) * sizeof(double);
}

static size_t scratch_kl(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)be;
    (void)attr;
    (void)nin;
    (void)out;
    (void)nout;
    LossMoments g = loss_moments(&in[0].shape);
    return in[0].dtype == DTYPE_F64 ? 0 : (size_t)(g.items * g.pieces) * sizeof(double);
}

void cpu_loss_register(Backend *be)
{
    cpu_loss_pixel_register(be);
    be->op[OP_MSE].run = run_mse;
    be->op[OP_MSE].scratch = scratch_pair;
    be->op[OP_MSE_BWD].run = run_mse_bwd;
    be->op[OP_L1].run = run_l1;
    be->op[OP_L1].scratch = scratch_pair;
    be->op[OP_L1_BWD].run = run_l1_bwd;
    be->op[OP_XENT].run = run_xent;
    be->op[OP_XENT_BWD].run = run_xent_bwd;
    be->op[OP_GAUSS_SAMPLE].run = run_gauss_sample;
    be->op[OP_GAUSS_SAMPLE_BWD].run = run_gauss_sample_bwd;
    be->op[OP_KL].run = run_kl;
    be->op[OP_KL].scratch = scratch_kl;
    be->op[OP_KL_BWD].run = run_kl_bwd;
}
