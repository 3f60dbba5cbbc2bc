#include "cpu/norm.h"
#include "cpu/simd_math.h"
#include "cpu/simd_reduce.h"

/* Three steps in both directions: column sums per chunk of rows, statistics per item and group in double, then one
 * element-wise pass. Only the first and the last read the tensor. */
typedef struct {
    NormGroup g;
    const void *x, *dy;
    void *out;
    const float *gamma, *beta;
    float *mean, *rstd; /* [items, groups] */
    float *dgamma, *dbeta;
    float *part;        /* [items][chunks][2][channels] */
    double *sum;        /* [items][2][channels] */
    float *coef;        /* [items][4][channels] */
    double eps;
    int silu, bf;
} GnArg;

static void gn_workspace(GnArg *a, void *scratch)
{
    int64_t n = a->g.items * a->g.channels;
    a->sum = scratch;
    a->coef = (float *)(a->sum + 2 * n);
    a->part = a->coef + 4 * n;
}

/* Sums of x - x0 and (x - x0)^2 where x0 is the chunk's first row: a mean far from zero costs no digits. */
INLINE void gn_columns(const void *x, int64_t rows, int64_t ch, float *s, float *q, int bf)
{
    int64_t c = 0;
    for (; c + 4 * VL <= ch; c += 4 * VL) {
        vf shift[4], sum[4], sq[4];
        for (int k = 0; k < 4; k++) {
            shift[k] = vt_load(x, c + k * VL, VL, bf);
            sum[k] = sq[k] = vf_zero();
        }
        for (int64_t r = 1; r < rows; r++)
            for (int k = 0; k < 4; k++) {
                vf d = vt_load(x, r * ch + c + k * VL, VL, bf) - shift[k];
                sum[k] += d;
                sq[k] += d * d;
            }
        for (int k = 0; k < 4; k++) {
            vf_store(s + c + k * VL, sum[k]);
            vf_store(q + c + k * VL, sq[k]);
        }
    }
    for (; c < ch; c += VL) {
        int n = lanes_at(c, ch);
        vf shift = vt_load(x, c, n, bf), sum = vf_zero(), sq = vf_zero();
        for (int64_t r = 1; r < rows; r++) {
            vf d = vt_load(x, r * ch + c, n, bf) - shift;
            sum += d;
            sq += d * d;
        }
        vf_store_n(s + c, sum, n);
        vf_store_n(q + c, sq, n);
    }
}

static void gn_columns_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const GnArg *a = p;
    const NormGroup *g = &a->g;
    int64_t item = task / g->chunks, r0 = task % g->chunks * g->chunk_rows;
    int64_t rows = g->rows - r0 < g->chunk_rows ? g->rows - r0 : g->chunk_rows;
    const void *x = t_at(a->x, (item * g->rows + r0) * g->channels, a->bf);
    float *s = a->part + task * 2 * g->channels;
    if (a->bf)
        gn_columns(x, rows, g->channels, s, s + g->channels, 1);
    else
        gn_columns(x, rows, g->channels, s, s + g->channels, 0);
}

/* Mean and sum of squared deviations per channel of one item, for a block of 64 channels. */
static void gn_moments_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const GnArg *a = p;
    const NormGroup *g = &a->g;
    const int64_t ch = g->channels, blocks = cpu_ceil_div(ch, 64), item = task / blocks, c0 = task % blocks * 64;
    const int n = ch - c0 < 64 ? (int)(ch - c0) : 64;
    double *mean = a->sum + item * 2 * ch + c0, *dev = mean + ch;
    double m[64] = {0}, d[64] = {0};
    for (int pass = 0; pass < 2; pass++)
        for (int64_t k = 0; k < g->chunks; k++) {
            const float *s = a->part + (item * g->chunks + k) * 2 * ch + c0, *q = s + ch;
            int64_t first = (item * g->rows + k * g->chunk_rows) * ch + c0, left = g->rows - k * g->chunk_rows;
            double rows = (double)(left < g->chunk_rows ? left : g->chunk_rows);
            float x0[64];
            for (int j = 0; j < n; j++)
                x0[j] = t_load(a->x, first + j, a->bf);
            if (pass == 0) {
                for (int j = 0; j < n; j++)
                    m[j] += (rows * (double)x0[j] + (double)s[j]) / (double)g->rows;
            } else {
                for (int j = 0; j < n; j++) {
                    double sj = (double)s[j], off = (double)x0[j] + sj / rows - m[j];
                    d[j] += ((double)q[j] - sj * sj / rows) + rows * off * off;
                }
            }
        }
    memcpy(mean, m, (size_t)n * sizeof *m);
    memcpy(dev, d, (size_t)n * sizeof *d);
}

/* mean, rstd of each group and, per channel: mean, rstd * gamma, beta. What the mean loses when rounded to float is put
 * into beta. */
static void gn_groups(const GnArg *a, int64_t item)
{
    const NormGroup *g = &a->g;
    const double *mean = a->sum + item * 2 * g->channels, *dev = mean + g->channels;
    float *coef = a->coef + item * 4 * g->channels;
    for (int64_t k = 0; k < g->groups; k++) {
        const int64_t c0 = k * g->width, c1 = c0 + g->width;
        double m = 0, v = 0;
        for (int64_t c = c0; c < c1; c++)
            m += mean[c];
        m /= (double)g->width;
        for (int64_t c = c0; c < c1; c++)
            v += dev[c] + (double)g->rows * (mean[c] - m) * (mean[c] - m);
        double r = 1 / sqrt(v / (double)(g->rows * g->width) + a->eps);
        a->mean[item * g->groups + k] = (float)m;
        a->rstd[item * g->groups + k] = (float)r;
        for (int64_t c = c0; c < c1; c++) {
            coef[c] = (float)m;
            coef[g->channels + c] = (float)(r * (double)a->gamma[c]);
            coef[2 * g->channels + c] = (float)((double)a->beta[c] + ((double)(float)m - m) * r * (double)a->gamma[c]);
        }
    }
}

INLINE void gn_apply(const GnArg *a, int64_t item, int64_t begin, int64_t rows, int silu, int bf)
{
    const int64_t ch = a->g.channels;
    const float *mean = a->coef + item * 4 * ch, *scale = mean + ch, *beta = scale + ch;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < ch; c += VL) {
            int n = lanes_at(c, ch);
            int64_t i = begin + r * ch + c;
            vf y = (vt_load(a->x, i, n, bf) - vf_load_n(mean + c, n)) * vf_load_n(scale + c, n) + vf_load_n(beta + c, n);
            if (silu)
                y = vf_silu(y, bf);
            vt_store(a->out, i, y, n, bf);
        }
}

#define GN_SPLIT(CALL, ...)                                   \
    switch (a->silu * 2 + a->bf) {                            \
    case 0: CALL(__VA_ARGS__, 0, 0); break;                   \
    case 1: CALL(__VA_ARGS__, 0, 1); break;                   \
    case 2: CALL(__VA_ARGS__, 1, 0); break;                   \
    default: CALL(__VA_ARGS__, 1, 1); break;                  \
    }

static void gn_apply_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const GnArg *a = p;
    const NormGroup *g = &a->g;
    int64_t item = task / g->chunks, r0 = task % g->chunks * g->chunk_rows;
    int64_t rows = g->rows - r0 < g->chunk_rows ? g->rows - r0 : g->chunk_rows;
    int64_t begin = (item * g->rows + r0) * g->channels;
    GN_SPLIT(gn_apply, a, item, begin, rows)
}

int CPU_FN(cpu_group_norm)(Backend *be, const OpCall *c)
{
    GnArg a = {.g = norm_group(&c->in[0].shape, c->attr->groups), .x = c->in[0].data, .out = c->out[0].data,
               .gamma = c->in[1].data, .beta = c->in[2].data, .mean = c->out[1].data, .rstd = c->out[2].data,
               .eps = (double)c->attr->eps, .silu = c->attr->act == ACT_SILU, .bf = is_bf16(&c->in[0])};
    gn_workspace(&a, c->scratch);
    const NormGroup *g = &a.g;
    int64_t tasks = g->items * g->chunks, count = g->items * g->rows * g->channels;
    cpu_parallel_tasks(be, tasks, count * 4, gn_columns_task, &a);
    cpu_parallel_tasks(be, g->items * cpu_ceil_div(g->channels, 64), tasks * g->channels * 16, gn_moments_task, &a);
    for (int64_t i = 0; i < g->items; i++)
        gn_groups(&a, i);
    cpu_parallel_tasks(be, tasks, count * (a.silu ? 16 : 8), gn_apply_task, &a);
    return 0;
}

/* Gradient at the norm's output z = xhat * gamma + beta. */
INLINE vf gn_dz(const GnArg *a, int64_t i, int64_t c, int n, vf xhat, int silu, int bf)
{
    vf dz = vt_load(a->dy, i, n, bf);
    if (silu)
        dz *= vf_silu_grad(xhat * vf_load_n(a->gamma + c, n) + vf_load_n(a->beta + c, n), bf);
    return dz;
}

INLINE void gn_bwd_sums(const GnArg *a, int64_t item, int64_t begin, int64_t rows, float *s, int silu, int bf)
{
    const int64_t ch = a->g.channels;
    const float *mean = a->coef + item * 4 * ch, *rstd = mean + ch;
    memset(s, 0, (size_t)(2 * ch) * sizeof *s);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < ch; c += VL) {
            int n = lanes_at(c, ch);
            int64_t i = begin + r * ch + c;
            vf xhat = (vt_load(a->x, i, n, bf) - vf_load_n(mean + c, n)) * vf_load_n(rstd + c, n);
            vf dz = gn_dz(a, i, c, n, xhat, silu, bf);
            vf_store_n(s + c, vf_load_n(s + c, n) + dz, n);
            vf_store_n(s + ch + c, vf_load_n(s + ch + c, n) + dz * xhat, n);
        }
}

INLINE void gn_bwd_apply(const GnArg *a, int64_t item, int64_t begin, int64_t rows, int silu, int bf)
{
    const int64_t ch = a->g.channels;
    const float *mean = a->coef + item * 4 * ch, *rstd = mean + ch, *k1 = rstd + ch, *k2 = k1 + ch;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < ch; c += VL) {
            int n = lanes_at(c, ch);
            int64_t i = begin + r * ch + c;
            vf rs = vf_load_n(rstd + c, n);
            vf xhat = (vt_load(a->x, i, n, bf) - vf_load_n(mean + c, n)) * rs;
            vf dz = gn_dz(a, i, c, n, xhat, silu, bf);
            vf dx = dz * vf_load_n(a->gamma + c, n) * rs - vf_load_n(k1 + c, n) - xhat * vf_load_n(k2 + c, n);
            vt_store(a->out, i, dx, n, bf);
        }
}

static void gn_bwd_sums_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const GnArg *a = p;
    const NormGroup *g = &a->g;
    int64_t item = task / g->chunks, r0 = task % g->chunks * g->chunk_rows;
    int64_t rows = g->rows - r0 < g->chunk_rows ? g->rows - r0 : g->chunk_rows;
    int64_t begin = (item * g->rows + r0) * g->channels;
    float *s = a->part + task * 2 * g->channels;
    GN_SPLIT(gn_bwd_sums, a, item, begin, rows, s)
}

static void gn_bwd_apply_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const GnArg *a = p;
    const NormGroup *g = &a->g;
    int64_t item = task / g->chunks, r0 = task % g->chunks * g->chunk_rows;
    int64_t rows = g->rows - r0 < g->chunk_rows ? g->rows - r0 : g->chunk_rows;
    int64_t begin = (item * g->rows + r0) * g->channels;
    GN_SPLIT(gn_bwd_apply, a, item, begin, rows)
}

static void gn_bwd_totals_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const GnArg *a = p;
    const int64_t ch = a->g.channels, both = cpu_ceil_div(2 * ch, 64), item = task / both, c0 = task % both * 64;
    const int n = 2 * ch - c0 < 64 ? (int)(2 * ch - c0) : 64;
    double sum[64];
    reduce_partials(a->part + item * a->g.chunks * 2 * ch + c0, a->g.chunks, 2 * ch, n, sum);
    memcpy(a->sum + item * 2 * ch + c0, sum, (size_t)n * sizeof *sum);
}

/* Saved statistics spread over the channels. */
static void gn_bwd_spread(const GnArg *a, int64_t item)
{
    const NormGroup *g = &a->g;
    float *coef = a->coef + item * 4 * g->channels;
    for (int64_t c = 0; c < g->channels; c++) {
        coef[c] = a->mean[item * g->groups + c / g->width];
        coef[g->channels + c] = a->rstd[item * g->groups + c / g->width];
    }
}

static void gn_bwd_groups(const GnArg *a, int64_t item)
{
    const NormGroup *g = &a->g;
    const double *dz = a->sum + item * 2 * g->channels, *dzx = dz + g->channels;
    float *k1 = a->coef + (item * 4 + 2) * g->channels, *k2 = k1 + g->channels;
    for (int64_t k = 0; k < g->groups; k++) {
        const int64_t c0 = k * g->width, c1 = c0 + g->width;
        double s1 = 0, s2 = 0, r = (double)a->rstd[item * g->groups + k] / (double)(g->rows * g->width);
        for (int64_t c = c0; c < c1; c++) {
            s1 += (double)a->gamma[c] * dz[c];
            s2 += (double)a->gamma[c] * dzx[c];
        }
        for (int64_t c = c0; c < c1; c++) {
            k1[c] = (float)(s1 * r);
            k2[c] = (float)(s2 * r);
        }
    }
}

int CPU_FN(cpu_group_norm_bwd)(Backend *be, const OpCall *c)
{
    GnArg a = {.g = norm_group(&c->in[1].shape, c->attr->groups), .dy = c->in[0].data, .x = c->in[1].data,
               .gamma = c->in[2].data, .beta = c->in[3].data, .mean = c->in[4].data, .rstd = c->in[5].data,
               .out = c->out[0].data, .dgamma = c->out[1].data, .dbeta = c->out[2].data,
               .silu = c->attr->act == ACT_SILU, .bf = is_bf16(&c->in[1])};
    gn_workspace(&a, c->scratch);
    const NormGroup *g = &a.g;
    int64_t tasks = g->items * g->chunks, count = g->items * g->rows * g->channels;
    for (int64_t i = 0; i < g->items; i++)
        gn_bwd_spread(&a, i);
    cpu_parallel_tasks(be, tasks, count * (a.silu ? 24 : 8), gn_bwd_sums_task, &a);
    cpu_parallel_tasks(be, g->items * cpu_ceil_div(2 * g->channels, 64), tasks * g->channels * 8, gn_bwd_totals_task, &a);
    for (int64_t i = 0; i < g->items; i++)
        gn_bwd_groups(&a, i);
    for (int64_t ch = 0; ch < g->channels; ch++) {
        double dg = 0, db = 0;
        for (int64_t i = 0; i < g->items; i++) {
            db += a.sum[i * 2 * g->channels + ch];
            dg += a.sum[(i * 2 + 1) * g->channels + ch];
        }
        a.dgamma[ch] = (float)dg;
        a.dbeta[ch] = (float)db;
    }
    cpu_parallel_tasks(be, tasks, count * (a.silu ? 24 : 12), gn_bwd_apply_task, &a);
    return 0;
}
