/* Kernels of the optimizer over 64 Mi values, as fine-tuning a UNet has, and what a diffusion step is given. */
#include "gpu.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels.h"
#include "ops/optim.h"

typedef struct {
    const Gpu *g;
    int64_t n, chunks;
    KernelChunk *chunk, *chunk_bf16;
    KernelRate *rate;
    KernelMoments moments;
    float *p, *m, *v, *grad, *map, *m_max, *v_max;
    uint8_t *m8, *v8;
    int64_t *sum;
    double *tile;
    uint64_t *count;
    const float **grads;
    KernelSample *sample;
    void *x, *target;
} Optim;

/* Work that takes place in one set of buffers, which are well beyond the L2 cache. */
static int adamw(void *ctx, int set)
{
    Optim *o = ctx;
    (void)set;
    kernel_optim(KERNEL_ADAMW, o->chunk, o->chunks, o->rate, o->p, o->m, o->v, o->grad, &o->moments, o->g->stream);
    return 0;
}

/* The same memory holds bf16 values. */
static int adamw_bf16(void *ctx, int set)
{
    Optim *o = ctx;
    (void)set;
    kernel_optim(KERNEL_ADAMW, o->chunk_bf16, o->chunks, o->rate, o->p, o->m, o->v, o->grad, &o->moments, o->g->stream);
    return 0;
}

static int adamw8(void *ctx, int set)
{
    Optim *o = ctx;
    (void)set;
    kernel_adamw8(o->chunk, o->chunks, o->rate, o->map, o->p, o->m8, o->m_max, o->v8, o->v_max, o->grad, &o->moments, o->g->stream);
    return 0;
}

static int exact_add(void *ctx, int set)
{
    Optim *o = ctx;
    (void)set;
    kernel_exact_add(o->chunk, o->chunks, o->grads, o->sum, INT64_MAX, o->count, o->count + 1, o->g->stream);
    return 0;
}

static int exact_to_float(void *ctx, int set)
{
    Optim *o = ctx;
    (void)set;
    kernel_exact_to_float(o->grad, o->sum, o->n, 0x1p-40, o->g->stream);
    return 0;
}

static int sumsq(void *ctx, int set)
{
    Optim *o = ctx;
    (void)set;
    kernel_tile_sums(KERNEL_SUM_SQUARE, o->grad, NULL, o->n, o->tile, o->g->stream);
    return 0;
}

enum { LATENT = 128 * 128 * 4 };

static int noise(void *ctx, int set)
{
    Optim *o = ctx;
    (void)set;
    kernel_noise(KERNEL_BF16, o->p, o->sample, o->x, o->target, o->n / LATENT / 2, LATENT, 4, 0.0f, 0.18f, KERNEL_TARGET_NOISE, o->g->stream);
    return 0;
}

static int measure(Optim *o, const char *name, GpuWork work, double bytes)
{
    double seconds;
    if (!gpu_wanted(o->g, name))
        return 0;
    TRY_CTX(gpu_time(o->g, work, o, 1, &seconds), "%s", name);
    TRY_CTX(cuda_check(cudaGetLastError(), "launch"), "%s", name);
    printf("byte\t%s\t%.4g\t%.6g\t0.85\n", name, seconds, bytes);
    fflush(stdout);
    return 0;
}

static int upload(Optim *o, void *out, const void *host, size_t bytes)
{
    TRY(o->g->be->alloc(o->g->be, out, bytes));
    return o->g->be->upload(o->g->be, *(void **)out, host, bytes);
}

static int tables(Optim *o)
{
    float map[512];
    const float *grads[1] = {o->grad};
    const KernelRate rate = {.decay = 0.9999f, .step = 1e-4f, .round = {{1, 2}, {3, 4}}};
    const uint64_t zero[2] = {0, 0};
    KernelChunk *c = calloc((size_t)o->chunks, sizeof *c);
    KernelSample *s = calloc((size_t)(o->n / LATENT), sizeof *s);
    int rc = ERR_NOMEM;
    if (!c || !s) {
        err_set(rc, "out of memory");
        goto done;
    }
    for (int64_t i = 0; i < o->chunks; i++) {
        int64_t at = i * KERNEL_CHUNK;
        c[i] = (KernelChunk){0, KERNEL_CHUNK, at, at, at, at / OPTIM_BLOCK, at * 4, KERNEL_F32};
    }
    for (int64_t i = 0; i < o->n / LATENT; i++)
        s[i] = (KernelSample){.latent = {{(uint32_t)i, 1}, {0, 0}}, .noise = {{(uint32_t)i, 2}, {0, 0}}, .a = 0.8, .s = 0.6};
    optim_dynamic_map(map, 1);
    optim_dynamic_map(map + 256, 0);
    TRY_GOTO(upload(o, &o->chunk, c, (size_t)o->chunks * sizeof *c));
    for (int64_t i = 0; i < o->chunks; i++) {
        c[i].place /= 2;
        c[i].type = KERNEL_BF16;
    }
    TRY_GOTO(upload(o, &o->chunk_bf16, c, (size_t)o->chunks * sizeof *c));
    TRY_GOTO(upload(o, &o->sample, s, (size_t)(o->n / LATENT) * sizeof *s));
    TRY_GOTO(upload(o, &o->map, map, sizeof map));
    TRY_GOTO(upload(o, &o->rate, &rate, sizeof rate));
    TRY_GOTO(upload(o, &o->grads, grads, sizeof grads));
    rc = upload(o, &o->count, zero, sizeof zero);
done:
    free(c);
    free(s);
    return rc;
}

static int buffers(Optim *o)
{
    int64_t blocks = o->n / OPTIM_BLOCK;
    void *p[11];
    const struct {
        Dtype t;
        int64_t n;
    } want[11] = {{DTYPE_F32, o->n}, {DTYPE_F32, o->n}, {DTYPE_F32, o->n}, {DTYPE_F32, o->n}, {DTYPE_F32, blocks}, {DTYPE_F32, blocks},
                  {DTYPE_U8, o->n}, {DTYPE_U8, o->n}, {DTYPE_I64, o->n}, {DTYPE_BF16, o->n}, {DTYPE_BF16, o->n}};
    for (int i = 0; i < 11; i++)
        TRY(gpu_random(o->g, &p[i], want[i].t, want[i].n));
    o->p = p[0], o->m = p[1], o->v = p[2], o->grad = p[3], o->m_max = p[4], o->v_max = p[5];
    o->m8 = p[6], o->v8 = p[7], o->sum = p[8], o->x = p[9], o->target = p[10];
    TRY(o->g->be->alloc(o->g->be, (void **)&o->tile, (size_t)(o->n / KERNEL_TILE + 1) * sizeof(double)));
    TRY(cuda_check(cudaMemsetAsync(o->v, 0, (size_t)o->n * sizeof(float), o->g->stream), "clearing")); /* no root of a negative number */
    return tables(o);
}

static int measure_all(Optim *o)
{
    double n = (double)o->n;
    TRY(measure(o, "adamw", adamw, n * 28));                 /* p, m, v read and written; gradient */
    TRY(measure(o, "adamw, bf16 values rounded stochastically", adamw_bf16, n * 24));
    TRY(measure(o, "adamw, 8-bit moments", adamw8, n * (16 + 16.0 / OPTIM_BLOCK)));
    TRY(measure(o, "exact sum of gradients", exact_add, n * 20));
    TRY(measure(o, "exact sums to float", exact_to_float, n * 12));
    TRY(measure(o, "sum of squares", sumsq, n * 4));
    return measure(o, "noise and q-sample", noise, n / 2 * 12); /* mean, log variance; x, target in bf16 */
}

int gpu_optimizers(const Gpu *g)
{
    Optim o = {.g = g, .n = g->tiny ? 2 * LATENT : (int64_t)64 << 20, .moments = {0.9f, 0.999f, 0.1f, 0.001f, 1e-8f, 1, 1, 0}};
    o.chunks = o.n / KERNEL_CHUNK;
    int rc = buffers(&o);
    if (rc >= 0)
        rc = measure_all(&o);
    void *all[] = {o.chunk, o.chunk_bf16, o.rate, o.p, o.m, o.v, o.grad, o.map, o.m_max, o.v_max, o.m8, o.v8, o.sum, o.tile, o.count, o.grads, o.sample, o.x, o.target};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i])
            g->be->free(g->be, all[i], 0);
    return rc;
}
