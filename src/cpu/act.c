#include <math.h>

#include "cpu/kernel.h"

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double gelu_cdf(double x)
{
    return 0.5 * erfc(-x * M_SQRT1_2);
}

static double gelu_slope(double x)
{
    return gelu_cdf(x) + x * exp(-0.5 * x * x) / sqrt(2 * M_PI);
}

static double act_value(int act, double x)
{
    switch (act) {
    case ACT_SILU: return x * sigmoid(x);
    case ACT_GELU: return x * gelu_cdf(x);
    case ACT_GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ACT_QUICK_GELU: return x * sigmoid(1.702 * x);
    case ACT_RELU: return x < 0 ? 0 : x;
    case ACT_SIGMOID: return sigmoid(x);
    case ACT_TANH: return tanh(x);
    case ACT_EXP: return exp(x);
    default: return x;
    }
}

static double act_slope(int act, double x)
{
    switch (act) {
    case ACT_SILU: return sigmoid(x) * (1 + x * (1 - sigmoid(x)));
    case ACT_GELU: return gelu_slope(x);
    case ACT_GELU_TANH: {
        double k = sqrt(2 / M_PI), t = tanh(k * (x + 0.044715 * x * x * x));
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x);
    }
    case ACT_QUICK_GELU: return sigmoid(1.702 * x) * (1 + 1.702 * x * (1 - sigmoid(1.702 * x)));
    case ACT_RELU: return x > 0;
    case ACT_SIGMOID: return sigmoid(x) * (1 - sigmoid(x));
    case ACT_TANH: return 1 - tanh(x) * tanh(x);
    case ACT_EXP: return exp(x);
    default: return 1;
    }
}

static int f64_act(Backend *be, const OpCall *c)
{
    (void)be;
    const double *x = c->in[0].data;
    double *y = c->out[0].data;
    int64_t n = shape_count(&c->in[0].shape);
    for (int64_t i = 0; i < n; i++)
        y[i] = act_value(c->attr->act, x[i]);
    return 0;
}

static int f64_act_bwd(Backend *be, const OpCall *c)
{
    (void)be;
    const double *dy = c->in[0].data, *x = c->in[1].data;
    double *dx = c->out[0].data;
    int64_t n = shape_count(&c->in[0].shape);
    for (int64_t i = 0; i < n; i++)
        dx[i] = dy[i] * act_slope(c->attr->act, x[i]);
    return 0;
}

static int f64_geglu(Backend *be, const OpCall *c)
{
    (void)be;
    const double *x = c->in[0].data, *bias = c->nin > 1 ? c->in[1].data : NULL;
    double *y = c->out[0].data;
    int64_t f = shape_last(&c->in[0].shape) / 2, rows = shape_rows(&c->in[0].shape);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < f; i++)
            y[r * f + i] = (x[r * 2 * f + i] + (bias ? bias[i] : 0)) * act_value(ACT_GELU, x[r * 2 * f + f + i] + (bias ? bias[f + i] : 0));
    return 0;
}

static int f64_geglu_bwd(Backend *be, const OpCall *c)
{
    (void)be;
    const double *dy = c->in[0].data, *x = c->in[1].data, *bias = c->nin > 2 ? c->in[2].data : NULL;
    double *dx = c->out[0].data;
    int64_t f = shape_last(&c->in[1].shape) / 2, rows = shape_rows(&c->in[1].shape);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < f; i++) {
            double v = x[r * 2 * f + i] + (bias ? bias[i] : 0), g = x[r * 2 * f + f + i] + (bias ? bias[f + i] : 0), d = dy[r * f + i];
            dx[r * 2 * f + i] = d * act_value(ACT_GELU, g);
            dx[r * 2 * f + f + i] = d * v * gelu_slope(g);
        }
    return 0;
}

CPU_OP(act, in[0])
CPU_OP(act_bwd, in[1])
CPU_OP(geglu, in[0])
CPU_OP(geglu_bwd, in[1])

void cpu_act_register(Backend *be)
{
    be->op[OP_ACT].run = run_act;
    be->op[OP_ACT_BWD].run = run_act_bwd;
    be->op[OP_GEGLU].run = run_geglu;
    be->op[OP_GEGLU_BWD].run = run_geglu_bwd;
}
