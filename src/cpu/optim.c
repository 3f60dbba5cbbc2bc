#include "cpu/optim.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "cpu/kernel.h"
#include "ops/optim.h"

enum { SUMSQ_TILE = 4096, SUMSQ_BATCH = 512 };

static int isa_now(void)
{
    int isa;
    return cpu_isa_detect(CPU_ISA_AVX512, &isa) < 0 ? CPU_ISA_BASE : isa;
}

void cpu_optim_adamw(float *p, float *m, float *v, const float *grad, int64_t n, const OptimAdamw *o)
{
    double t = (double)o->step, lr = (double)o->lr;
    OptimArg a = {p, m, v, grad, o->beta1, o->beta2, o->eps, o->grad_scale, 0, 0, 0};
    a.decay = (float)(1 - lr * (double)o->weight_decay);
    a.step_size = (float)(lr / (1 - pow((double)o->beta1, t)));
    a.root_v = (float)sqrt(1 - pow((double)o->beta2, t));
    Backend team = {.threads = omp_get_max_threads()};
    cpu_parallel_flat(&team, n, 28, CPU_PICK(isa_now(), cpu_optim_adamw_flat), &a);
}

typedef struct {
    float *p;
    RngKey key;
} RoundArg;

static void round_flat(void *arg, int64_t begin, int64_t end)
{
    const RoundArg *a = arg;
    uint32_t word[256], bits;
    for (int64_t i = begin; i < end; i += 256) {
        int64_t n = end - i < 256 ? end - i : 256;
        rng_u32_fill(word, n, a->key, (uint64_t)i);
        for (int64_t k = 0; k < n; k++) {
            memcpy(&bits, &a->p[i + k], sizeof bits);
            if ((bits & 0x7f800000) != 0x7f800000)
                bits = (bits + (word[k] & 0xffff)) & 0xffff0000;
            memcpy(&a->p[i + k], &bits, sizeof bits);
        }
    }
}

void cpu_optim_round_bf16(float *p, int64_t n, RngKey k)
{
    Backend team = {.threads = omp_get_max_threads()};
    cpu_parallel_flat(&team, n, 64, round_flat, &(RoundArg){p, k});
}

typedef struct {
    const float *x, *y;
    int64_t n;
    double *sum;
    double (*tile)(const float *x, int64_t n);
} SumsqArg;

static void sumsq_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const SumsqArg *a = p;
    int64_t at = task * SUMSQ_TILE;
    a->sum[task] = a->tile(a->x + at, a->n - at < SUMSQ_TILE ? a->n - at : SUMSQ_TILE);
}

static void dot_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const SumsqArg *a = p;
    int64_t at = task * SUMSQ_TILE, end = a->n - at < SUMSQ_TILE ? a->n : at + SUMSQ_TILE;
    double s[16] = {0};
    for (int64_t i = at; i < end; i++)
        s[i % 16] += a->y ? (double)a->x[i] * (double)a->y[i] : fabs((double)a->x[i]);
    for (int w = 8; w > 0; w /= 2)
        for (int k = 0; k < w; k++)
            s[k] += s[k + w];
    a->sum[task] = s[0];
}

/* Batches of tiles, so that the partial sums need no allocation. */
static double tiled(const float *x, const float *y, int64_t n, CpuTask fn)
{
    double sum[SUMSQ_BATCH], total = 0;
    Backend team = {.threads = omp_get_max_threads()};
    for (int64_t at = 0; at < n; at += SUMSQ_TILE * SUMSQ_BATCH) {
        int64_t len = n - at < SUMSQ_TILE * SUMSQ_BATCH ? n - at : SUMSQ_TILE * SUMSQ_BATCH;
        int64_t tiles = cpu_ceil_div(len, SUMSQ_TILE);
        SumsqArg a = {x + at, y ? y + at : NULL, len, sum, CPU_PICK(isa_now(), cpu_optim_sumsq_tile)};
        cpu_parallel_tasks(&team, tiles, len * 4, fn, &a);
        for (int64_t i = 0; i < tiles; i++)
            total += sum[i];
    }
    return total;
}

double cpu_optim_sumsq(const float *x, int64_t n)
{
    return tiled(x, NULL, n, sumsq_task);
}

double cpu_optim_dot(const float *x, const float *y, int64_t n)
{
    return tiled(x, y, n, dot_task);
}

double cpu_optim_sumabs(const float *x, int64_t n)
{
    return tiled(x, NULL, n, dot_task);
}
