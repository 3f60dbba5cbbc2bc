#include "cpu/simd_math.h"

typedef struct {
    const void *x, *dy;
    void *out;
    int act, bf;
} ActArg;

INLINE vf act_value(int act, vf x, int bf)
{
    switch (act) {
    case ACT_SILU: return vf_silu(x, bf);
    case ACT_GELU: return vf_gelu(x);
    case ACT_GELU_TANH: {
        vf u = (x + x * x * x * vf_set(0.044715f)) * vf_set(0.797884561f);
        vf h = x * vf_set(0.5f);
        return h + h * vf_tanh(u);
    }
    case ACT_QUICK_GELU: return x * vf_sigmoid(x * vf_set(1.702f), bf);
    case ACT_RELU: return vf_max(vf_zero(), x);
    case ACT_SIGMOID: return vf_sigmoid(x, bf);
    case ACT_TANH: return vf_tanh(x);
    case ACT_EXP: return vf_exp(x);
    default: return x;
    }
}

INLINE vf act_slope(int act, vf x, int bf)
{
    const vf one = vf_set(1.0f);
    switch (act) {
    case ACT_SILU: return vf_silu_grad(x, bf);
    case ACT_GELU: return vf_gelu_grad(x, vf_normal_cdf(x));
    case ACT_GELU_TANH: {
        const vf k = vf_set(0.797884561f), c = vf_set(0.044715f), half = vf_set(0.5f);
        vf t = vf_tanh((x + x * x * x * c) * k);
        return half * (one + t) + half * x * (one - t * t) * k * (one + vf_set(3.0f) * c * x * x);
    }
    case ACT_QUICK_GELU: {
        vf s = vf_sigmoid(x * vf_set(1.702f), bf);
        return s + vf_set(1.702f) * x * s * (one - s);
    }
    case ACT_RELU: return vf_if_lt(vf_zero(), x, one, vf_zero());
    case ACT_SIGMOID: {
        vf s = vf_sigmoid(x, bf);
        return s * (one - s);
    }
    case ACT_TANH: {
        vf t = vf_tanh(x);
        return one - t * t;
    }
    case ACT_EXP: return vf_exp(x);
    default: return one;
    }
}

INLINE void act_loop(const ActArg *a, int64_t begin, int64_t end, int act, int back, int bf)
{
    for (int64_t i = begin; i < end; i += VL) {
        int n = lanes_at(i, end);
        vf x = vt_load(a->x, i, n, bf);
        vf y;
        if (back)
            y = vt_load(a->dy, i, n, bf) * act_slope(act, x, bf);
        else
            y = act_value(act, x, bf);
        vt_store(a->out, i, y, n, bf);
    }
}

#define ACT_CASE(A, BACK)                        \
    case A:                                      \
        if (a->bf)                               \
            act_loop(a, begin, end, A, BACK, 1); \
        else                                     \
            act_loop(a, begin, end, A, BACK, 0); \
        break;
#define ACT_CASES(BACK)                                                                                  \
    ACT_CASE(ACT_NONE, BACK) ACT_CASE(ACT_SILU, BACK) ACT_CASE(ACT_GELU, BACK) ACT_CASE(ACT_GELU_TANH, BACK) \
    ACT_CASE(ACT_QUICK_GELU, BACK) ACT_CASE(ACT_RELU, BACK) ACT_CASE(ACT_SIGMOID, BACK)                      \
    ACT_CASE(ACT_TANH, BACK) ACT_CASE(ACT_EXP, BACK)

static void act_flat(void *p, int64_t begin, int64_t end)
{
    const ActArg *a = p;
    switch (a->act) {
        ACT_CASES(0)
    default: break;
    }
}

static void act_bwd_flat(void *p, int64_t begin, int64_t end)
{
    const ActArg *a = p;
    switch (a->act) {
        ACT_CASES(1)
    default: break;
    }
}

int CPU_FN(cpu_act)(Backend *be, const OpCall *c)
{
    ActArg a = {c->in[0].data, NULL, c->out[0].data, c->attr->act, is_bf16(&c->in[0])};
    cpu_parallel_flat(be, shape_count(&c->in[0].shape), 16, act_flat, &a);
    return 0;
}

int CPU_FN(cpu_act_bwd)(Backend *be, const OpCall *c)
{
    ActArg a = {c->in[1].data, c->in[0].data, c->out[0].data, c->attr->act, is_bf16(&c->in[1])};
    cpu_parallel_flat(be, shape_count(&c->in[1].shape), 24, act_bwd_flat, &a);
    return 0;
}

typedef struct {
    const void *x, *dy;
    const float *bias; /* of x, or NULL */
    void *out;
    int64_t width; /* F */
    int64_t rows, rows_per_task;
    int bf;
} GegluArg;

/* Channels [at, at + n) of x's row, or of its gate, with their bias. */
INLINE vf geglu_load(const void *row, int64_t at, int n, const float *bias, int bf)
{
    vf v = vt_load(row, at, n, bf);
    if (bias)
        v += vf_load_n(bias + at, n);
    return v;
}

INLINE void geglu_rows(const GegluArg *a, int64_t r0, int64_t r1, int bf)
{
    const int64_t f = a->width;
    const float *bias = a->bias, *gate_bias = bias ? bias + f : NULL;
    for (int64_t r = r0; r < r1; r++) {
        const void *x = t_at(a->x, r * 2 * f, bf), *gate = t_at(x, f, bf);
        void *y = t_at_mut(a->out, r * f, bf);
        for (int64_t i = 0; i < f; i += VL) {
            int n = lanes_at(i, f);
            vt_store(y, i, geglu_load(x, i, n, bias, bf) * vf_gelu(geglu_load(gate, i, n, gate_bias, bf)), n, bf);
        }
    }
}

INLINE void geglu_bwd_rows(const GegluArg *a, int64_t r0, int64_t r1, int bf)
{
    const int64_t f = a->width;
    const float *bias = a->bias, *gate_bias = bias ? bias + f : NULL;
    for (int64_t r = r0; r < r1; r++) {
        const void *x = t_at(a->x, r * 2 * f, bf), *gate = t_at(x, f, bf), *dy = t_at(a->dy, r * f, bf);
        void *dx = t_at_mut(a->out, r * 2 * f, bf), *dgate = t_at_mut(dx, f, bf);
        for (int64_t i = 0; i < f; i += VL) {
            int n = lanes_at(i, f);
            vf g = geglu_load(gate, i, n, gate_bias, bf), v = geglu_load(x, i, n, bias, bf), d = vt_load(dy, i, n, bf);
            vf cdf = vf_normal_cdf(g);
            vt_store(dx, i, d * (g * cdf), n, bf);
            vt_store(dgate, i, d * v * vf_gelu_grad(g, cdf), n, bf);
        }
    }
}

static void geglu_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const GegluArg *a = p;
    int64_t r0 = task * a->rows_per_task, r1 = r0 + a->rows_per_task;
    r1 = r1 < a->rows ? r1 : a->rows;
    if (a->dy && a->bf)
        geglu_bwd_rows(a, r0, r1, 1);
    else if (a->dy)
        geglu_bwd_rows(a, r0, r1, 0);
    else if (a->bf)
        geglu_rows(a, r0, r1, 1);
    else
        geglu_rows(a, r0, r1, 0);
}

static void geglu_run(Backend *be, const OpView *x, const void *dy, const float *bias, void *out)
{
    int64_t f = shape_last(&x->shape) / 2, rows = shape_rows(&x->shape);
    GegluArg a = {x->data, dy, bias, out, f, rows, f >= 8192 ? 1 : 8192 / (f ? f : 1), is_bf16(x)};
    cpu_parallel_tasks(be, cpu_ceil_div(rows, a.rows_per_task), rows * f * 24, geglu_task, &a);
}

int CPU_FN(cpu_geglu)(Backend *be, const OpCall *c)
{
    geglu_run(be, &c->in[0], NULL, c->nin > 1 ? c->in[1].data : NULL, c->out[0].data);
    return 0;
}

int CPU_FN(cpu_geglu_bwd)(Backend *be, const OpCall *c)
{
    geglu_run(be, &c->in[1], c->in[0].data, c->nin > 2 ? c->in[2].data : NULL, c->out[0].data);
    return 0;
}
