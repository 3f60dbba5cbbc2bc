#include "cpu/loss.h"
#include "cpu/simd_math.h"

typedef struct {
    LossItems g;
    const void *x, *y;
    const float *weight, *dl;
    void *out;
    double *part; /* [items][pieces] */
    int l1, bf;
} PairArg;

INLINE double pair_sum(const PairArg *a, int64_t begin, int64_t end, int l1, int bf)
{
    vf s[2] = {vf_zero(), vf_zero()};
    for (int64_t i = begin, k = 0; i < end; i += VL, k ^= 1) {
        int n = lanes_at(i, end);
        vf d = vt_load(a->x, i, n, bf) - vt_load(a->y, i, n, bf);
        if (l1)
            s[k] += vf_abs(d);
        else
            s[k] += d * d;
    }
    return (double)vf_sum(s[0] + s[1]);
}

static void pair_sum_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const PairArg *a = p;
    int64_t item = task / a->g.pieces, at = task % a->g.pieces * LOSS_PIECE, base = item * a->g.count;
    int64_t end = at + LOSS_PIECE < a->g.count ? at + LOSS_PIECE : a->g.count;
    if (a->l1)
        a->part[task] = a->bf ? pair_sum(a, base + at, base + end, 1, 1) : pair_sum(a, base + at, base + end, 1, 0);
    else
        a->part[task] = a->bf ? pair_sum(a, base + at, base + end, 0, 1) : pair_sum(a, base + at, base + end, 0, 0);
}

static int pair_forward(Backend *be, const OpCall *c, int l1)
{
    PairArg a = {.g = loss_items(&c->in[0].shape), .x = c->in[0].data, .y = c->in[1].data, .weight = c->in[2].data,
                 .part = c->scratch, .l1 = l1, .bf = is_bf16(&c->in[0])};
    float *loss = c->out[0].data;
    cpu_parallel_tasks(be, a.g.items * a.g.pieces, a.g.items * a.g.count * 8, pair_sum_task, &a);
    for (int64_t i = 0; i < a.g.items; i++) {
        double s = 0;
        for (int64_t k = 0; k < a.g.pieces; k++)
            s += a.part[i * a.g.pieces + k];
        loss[i] = (float)((double)a.weight[i] * s / (double)a.g.count);
    }
    return 0;
}

INLINE void pair_back(const PairArg *a, int64_t begin, int64_t end, float k, int l1, int bf)
{
    for (int64_t i = begin; i < end; i += VL) {
        int n = lanes_at(i, end);
        vf d = vt_load(a->x, i, n, bf) - vt_load(a->y, i, n, bf);
        if (l1) /* sign(d), with 0 and NaN kept */
            d = vf_if_lt(vf_zero(), d, vf_set(1.0f), vf_if_lt(d, vf_zero(), vf_set(-1.0f), d));
        vt_store(a->out, i, d * vf_set(k), n, bf);
    }
}

static void pair_back_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const PairArg *a = p;
    int64_t item = task / a->g.pieces, at = task % a->g.pieces * LOSS_PIECE, base = item * a->g.count;
    int64_t end = at + LOSS_PIECE < a->g.count ? at + LOSS_PIECE : a->g.count;
    double k = (double)a->dl[item] * (double)a->weight[item] / (double)a->g.count;
    pair_back(a, base + at, base + end, (float)(a->l1 ? k : 2 * k), a->l1, a->bf);
}

static int pair_backward(Backend *be, const OpCall *c, int l1)
{
    PairArg a = {.g = loss_items(&c->in[1].shape), .dl = c->in[0].data, .x = c->in[1].data, .y = c->in[2].data,
                 .weight = c->in[3].data, .out = c->out[0].data, .l1 = l1, .bf = is_bf16(&c->in[1])};
    cpu_parallel_tasks(be, a.g.items * a.g.pieces, a.g.items * a.g.count * 12, pair_back_task, &a);
    return 0;
}

int CPU_FN(cpu_mse)(Backend *be, const OpCall *c)
{
    return pair_forward(be, c, 0);
}

int CPU_FN(cpu_l1)(Backend *be, const OpCall *c)
{
    return pair_forward(be, c, 1);
}

int CPU_FN(cpu_mse_bwd)(Backend *be, const OpCall *c)
{
    return pair_backward(be, c, 0);
}

int CPU_FN(cpu_l1_bwd)(Backend *be, const OpCall *c)
{
    return pair_backward(be, c, 1);
}

typedef struct {
    const void *x;
    const int32_t *target;
    const float *dl;
    void *out;
    int64_t rows, width;
    int bf;
} XentArg;

INLINE float xent_top(const XentArg *a, int64_t at)
{
    vf m = vf_set(-INFINITY);
    for (int64_t i = 0; i < a->width; i += VL) {
        int n = lanes_at(i, a->width);
        if (n == VL)
            m = vf_max(m, vt_load(a->x, at + i, n, a->bf));
        else
            for (int k = 0; k < n; k++)
                m = vf_max(m, vf_set(t_load(a->x, at + i + k, a->bf)));
    }
    return vf_top(m);
}

/* exp(x - top) of the row's elements i..i+n-1, 0 in the other lanes. */
INLINE vf xent_exp(const XentArg *a, int64_t at, int64_t i, int n, float top)
{
    float t[VL] ALIGNED = {0};
    vf e = vf_exp(vt_load(a->x, at + i, n, a->bf) - vf_set(top));
    if (n == VL)
        return e;
    vf_store_n(t, e, n);
    return vf_load(t);
}

static void xent_task(void *p, int64_t row, int thread)
{
    (void)thread;
    const XentArg *a = p;
    const int64_t at = row * a->width;
    float top = xent_top(a, at);
    vf s = vf_zero();
    for (int64_t i = 0; i < a->width; i += VL)
        s += xent_exp(a, at, i, lanes_at(i, a->width), top);
    double total = (double)vf_sum(s);
    if (!a->dl) {
        ((float *)a->out)[row] = (float)(log(total) + ((double)top - (double)t_load(a->x, at + a->target[row], a->bf)));
        return;
    }
    const float k = (float)((double)a->dl[row] / total);
    for (int64_t i = 0; i < a->width; i += VL) {
        int n = lanes_at(i, a->width);
        vf d = xent_exp(a, at, i, n, top) * vf_set(k);
        if (a->target[row] >= i && a->target[row] < i + n) {
            float t[VL] ALIGNED;
            vf_store(t, d);
            t[a->target[row] - i] -= a->dl[row];
            d = vf_load(t);
        }
        vt_store(a->out, at + i, d, n, a->bf);
    }
}

int CPU_FN(cpu_xent)(Backend *be, const OpCall *c)
{
    XentArg a = {c->in[0].data, c->in[1].data, NULL, c->out[0].data, c->in[0].shape.dim[0], c->in[0].shape.dim[1],
                 is_bf16(&c->in[0])};
    cpu_parallel_tasks(be, a.rows, a.rows * a.width * 16, xent_task, &a);
    return 0;
}

int CPU_FN(cpu_xent_bwd)(Backend *be, const OpCall *c)
{
    XentArg a = {c->in[1].data, c->in[2].data, c->in[0].data, c->out[0].data, c->in[1].shape.dim[0],
                 c->in[1].shape.dim[1], is_bf16(&c->in[1])};
    cpu_parallel_tasks(be, a.rows, a.rows * a.width * 32, xent_task, &a);
    return 0;
}

typedef struct {
    LossMoments g;
    const void *moments, *noise, *dz;
    const float *weight, *dk;
    void *out;
    double *part;
    int bf;
} MomentsArg;

enum { LOGVAR_LEAST = -30, LOGVAR_MOST = 20 };

INLINE vf clamp_logvar(vf v)
{
    return vf_min(vf_set(LOGVAR_MOST), vf_max(vf_set(LOGVAR_LEAST), v));
}

/* g inside the clamp's range (ends included), 0 outside. */
INLINE vf clamp_slope(vf v, vf g)
{
    g = vf_if_lt(v, vf_set(LOGVAR_LEAST), vf_zero(), g);
    return vf_if_lt(vf_set(LOGVAR_MOST), v, vf_zero(), g);
}

static void gauss_task(void *p, int64_t row, int thread)
{
    (void)thread;
    const MomentsArg *a = p;
    const int64_t w = a->g.width, rows = a->g.items * a->g.rows, first = row * a->g.piece_rows;
    for (int64_t r = first; r < rows && r < first + a->g.piece_rows; r++)
        for (int64_t i = 0; i < w; i += VL) {
            int n = lanes_at(i, w);
            vf logvar = vt_load(a->moments, r * 2 * w + w + i, n, a->bf), noise = vt_load(a->noise, r * w + i, n, a->bf);
            vf dev = vf_exp(clamp_logvar(logvar) * vf_set(0.5f));
            if (!a->dz) {
                vt_store(a->out, r * w + i, vt_load(a->moments, r * 2 * w + i, n, a->bf) + dev * noise, n, a->bf);
                continue;
            }
            vf dz = vt_load(a->dz, r * w + i, n, a->bf);
            vt_store(a->out, r * 2 * w + i, dz, n, a->bf);
            vt_store(a->out, r * 2 * w + w + i, clamp_slope(logvar, dz * noise * dev * vf_set(0.5f)), n, a->bf);
        }
}

static void gauss_run(Backend *be, const MomentsArg *a)
{
    int64_t rows = a->g.items * a->g.rows;
    MomentsArg arg = *a;
    cpu_parallel_tasks(be, cpu_ceil_div(rows, a->g.piece_rows), rows * a->g.width * 32, gauss_task, &arg);
}

int CPU_FN(cpu_gauss_sample)(Backend *be, const OpCall *c)
{
    MomentsArg a = {.g = loss_moments(&c->in[0].shape), .moments = c->in[0].data, .noise = c->in[1].data,
                    .out = c->out[0].data, .bf = is_bf16(&c->in[0])};
    gauss_run(be, &a);
    return 0;
}

int CPU_FN(cpu_gauss_sample_bwd)(Backend *be, const OpCall *c)
{
    MomentsArg a = {.g = loss_moments(&c->in[1].shape), .dz = c->in[0].data, .moments = c->in[1].data,
                    .noise = c->in[2].data, .out = c->out[0].data, .bf = is_bf16(&c->in[1])};
    gauss_run(be, &a);
    return 0;
}

static void kl_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const MomentsArg *a = p;
    const LossMoments *g = &a->g;
    const int64_t w = g->width, item = task / g->pieces, r0 = task % g->pieces * g->piece_rows;
    const int64_t r1 = r0 + g->piece_rows < g->rows ? r0 + g->piece_rows : g->rows;
    double s = 0;
    for (int64_t r = item * g->rows + r0; r < item * g->rows + r1; r++)
        for (int64_t i = 0; i < w; i += VL) {
            int n = lanes_at(i, w);
            vf mean = vt_load(a->moments, r * 2 * w + i, n, a->bf);
            vf logvar = clamp_logvar(vt_load(a->moments, r * 2 * w + w + i, n, a->bf));
            /* lanes past the end read 0 and give 0 + exp(0) - 1 - 0 = 0 */
            s += (double)vf_sum(mean * mean + vf_exp(logvar) - vf_set(1.0f) - logvar);
        }
    a->part[task] = s;
}

int CPU_FN(cpu_kl)(Backend *be, const OpCall *c)
{
    MomentsArg a = {.g = loss_moments(&c->in[0].shape), .moments = c->in[0].data, .weight = c->in[1].data,
                    .part = c->scratch, .bf = is_bf16(&c->in[0])};
    float *kl = c->out[0].data;
    cpu_parallel_tasks(be, a.g.items * a.g.pieces, a.g.items * a.g.rows * a.g.width * 24, kl_task, &a);
    for (int64_t i = 0; i < a.g.items; i++) {
        double s = 0;
        for (int64_t k = 0; k < a.g.pieces; k++)
            s += a.part[i * a.g.pieces + k];
        kl[i] = (float)((double)a.weight[i] * 0.5 * s / (double)(a.g.rows * a.g.width));
    }
    return 0;
}

static void kl_bwd_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const MomentsArg *a = p;
    const LossMoments *g = &a->g;
    const int64_t w = g->width, item = task / g->pieces, r0 = task % g->pieces * g->piece_rows;
    const int64_t r1 = r0 + g->piece_rows < g->rows ? r0 + g->piece_rows : g->rows;
    const vf k = vf_set((float)((double)a->dk[item] * (double)a->weight[item] / (double)(g->rows * w)));
    for (int64_t r = item * g->rows + r0; r < item * g->rows + r1; r++)
        for (int64_t i = 0; i < w; i += VL) {
            int n = lanes_at(i, w);
            vf logvar = vt_load(a->moments, r * 2 * w + w + i, n, a->bf);
            vf slope = (vf_exp(clamp_logvar(logvar)) - vf_set(1.0f)) * vf_set(0.5f) * k;
            vt_store(a->out, r * 2 * w + i, vt_load(a->moments, r * 2 * w + i, n, a->bf) * k, n, a->bf);
            vt_store(a->out, r * 2 * w + w + i, clamp_slope(logvar, slope), n, a->bf);
        }
}

int CPU_FN(cpu_kl_bwd)(Backend *be, const OpCall *c)
{
    MomentsArg a = {.g = loss_moments(&c->in[1].shape), .dk = c->in[0].data, .moments = c->in[1].data,
                    .weight = c->in[2].data, .out = c->out[0].data, .bf = is_bf16(&c->in[1])};
    cpu_parallel_tasks(be, a.g.items * a.g.pieces, a.g.items * a.g.rows * a.g.width * 32, kl_bwd_task, &a);
    return 0;
}
