#include <math.h>
#include <omp.h>

#include "cpu/parallel.h"
#include "ops/optim.h"

static const float EPS_SQUARE = 1e-30f;
static const double EPS_SCALE = 1e-3;

/* The tensor as [outer, rows, cols]: the two last dimensions are factored. */
typedef struct {
    int64_t outer, rows, cols;
    float *row, *col, *v, *m, *p, *update;
    const float *grad;
    float beta2, keep, scale, beta1, lr, decay;
    double fraction; /* of `update` that is left after clipping */
} Factor;

static void row_task(void *ctx, int64_t r, int thread)
{
    (void)thread;
    const Factor *f = ctx;
    const float *g = f->grad + r * f->cols;
    double s[16] = {0}; /* chains as in the sums of optim.c */
    for (int64_t c = 0; c < f->cols; c++) {
        float x = g[c] * f->scale;
        s[c % 16] += (double)(x * x + EPS_SQUARE);
    }
    for (int w = 8; w > 0; w /= 2)
        for (int k = 0; k < w; k++)
            s[k] += s[k + w];
    f->row[r] = f->row[r] * f->beta2 + f->keep * (float)(s[0] / (double)f->cols);
}

static void col_task(void *ctx, int64_t task, int thread)
{
    enum { CHUNK = 64 };
    (void)thread;
    const Factor *f = ctx;
    int64_t chunks = (f->cols + CHUNK - 1) / CHUNK, o = task / chunks, from = task % chunks * CHUNK;
    int64_t n = f->cols - from < CHUNK ? f->cols - from : CHUNK;
    double sum[CHUNK] = {0};
    for (int64_t r = 0; r < f->rows; r++) {
        const float *g = f->grad + (o * f->rows + r) * f->cols + from;
        for (int64_t c = 0; c < n; c++) {
            float x = g[c] * f->scale;
            sum[c] += (double)(x * x + EPS_SQUARE);
        }
    }
    float *col = f->col + o * f->cols + from;
    for (int64_t c = 0; c < n; c++)
        col[c] = col[c] * f->beta2 + f->keep * (float)(sum[c] / (double)f->rows);
}

/* grad / sqrt(row/mean(row) * col) */
static void scaled_task(void *ctx, int64_t o, int thread)
{
    (void)thread;
    const Factor *f = ctx;
    double mean = 0;
    for (int64_t r = 0; r < f->rows; r++)
        mean += (double)f->row[o * f->rows + r];
    mean /= (double)f->rows;
    for (int64_t r = 0; r < f->rows; r++) {
        int64_t at = (o * f->rows + r) * f->cols;
        float by_row = 1 / sqrtf(f->row[o * f->rows + r] / (float)mean);
        for (int64_t c = 0; c < f->cols; c++)
            f->update[at + c] = by_row * (1 / sqrtf(f->col[o * f->cols + c])) * (f->grad[at + c] * f->scale);
    }
}

static void vector_flat(void *ctx, int64_t begin, int64_t end)
{
    const Factor *f = ctx;
    for (int64_t i = begin; i < end; i++) {
        float g = f->grad[i] * f->scale;
        f->v[i] = f->v[i] * f->beta2 + f->keep * (g * g + EPS_SQUARE);
        f->update[i] = 1 / sqrtf(f->v[i]) * g;
    }
}

static void apply_flat(void *ctx, int64_t begin, int64_t end)
{
    const Factor *f = ctx;
    for (int64_t i = begin; i < end; i++) {
        float u = (float)((double)f->update[i] * f->fraction) * f->lr;
        if (f->m)
            u = f->m[i] = f->m[i] * f->beta1 + (1 - f->beta1) * u;
        f->p[i] = f->p[i] * f->decay - u;
    }
}

void cpu_optim_adafactor(float *p, float *row, float *col, float *v, float *m, const float *grad, float *update, const Shape *shape,
                         const OptimAdafactor *o)
{
    int64_t n = shape_count(shape);
    Backend be = {.threads = omp_get_max_threads()};
    if (n == 0)
        return;
    double beta2 = 1 - pow((double)o->step, (double)o->decay_rate);
    Factor f = {.row = row, .col = col, .v = v, .m = m, .p = p, .update = update, .grad = grad};
    f.beta2 = (float)beta2;
    f.keep = (float)(1 - beta2);
    f.scale = o->grad_scale;
    f.beta1 = o->beta1;
    double lr = (double)o->lr;
    if (o->scale_parameter) {
        double rms = sqrt(cpu_optim_sumsq(p, n) / (double)n);
        lr *= rms > EPS_SCALE ? rms : EPS_SCALE;
    }
    f.lr = (float)lr;
    f.decay = (float)(1 - lr * (double)o->weight_decay);
    if (shape->ndim >= 2) {
        f.cols = shape_last(shape);
        f.rows = shape->dim[shape->ndim - 2];
        f.outer = n / (f.rows * f.cols);
        cpu_parallel_tasks(&be, f.outer * f.rows, n * 4, row_task, &f);
        cpu_parallel_tasks(&be, f.outer * ((f.cols + 63) / 64), n * 4, col_task, &f);
        cpu_parallel_tasks(&be, f.outer, n * 8, scaled_task, &f);
    } else {
        cpu_parallel_flat(&be, n, 16, vector_flat, &f);
    }
    double rms = sqrt(cpu_optim_sumsq(update, n) / (double)n) / (double)o->clip_threshold;
    f.fraction = rms > 1 ? 1 / rms : 1;
    cpu_parallel_flat(&be, n, 16, apply_flat, &f);
}
