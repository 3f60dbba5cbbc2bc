/* Kernels, networks and training on a GPU: what benchmarks/gpu.sh measures.
 *   bench_gpu [all|ceilings|kernels|nets|lora]... [tiny] [only=PART OF A NAME] */
#include "gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

double gpu_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double gpu_median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

int gpu_wanted(const Gpu *g, const char *name)
{
    return !g->only || strstr(name, g->only);
}

int gpu_sets(const Gpu *g, double bytes)
{
    double sets = 3.0 * (double)g->l2 / (bytes > 1 ? bytes : 1) + 1;
    return g->tiny ? 2 : sets > 24 ? 24 : (int)sets;
}

int gpu_random(const Gpu *g, void **out, Dtype t, int64_t count)
{
    enum { BLOCK = 1 << 20 };
    static uint32_t host[2][BLOCK]; /* f32; bf16 in pairs */
    static int made;
    size_t size = dtype_size(t), bytes = (size_t)count * size;
    for (int i = 0; i < BLOCK && !made; i++) {
        uint32_t x = ((uint32_t)i + 1) * 2654435761u;
        x = (x ^ x >> 15) * 0x2c1b3c6du;
        x ^= x >> 13;
        float f = (float)(x >> 8) * 0x1p-23f - 1.0f;
        memcpy(&host[0][i], &f, 4);
        host[1][i] = (host[0][i] >> 16) | (host[0][i ? i - 1 : 0] & 0xffff0000u);
    }
    made = 1;
    TRY(g->be->alloc(g->be, out, bytes));
    for (size_t at = 0; at < bytes; at += sizeof host[0])
        TRY(g->be->upload(g->be, (char *)*out + at, host[t == DTYPE_BF16], bytes - at < sizeof host[0] ? bytes - at : sizeof host[0]));
    return 0;
}

/* ---- timing ---- */

enum { MOST_REPLAYS = 25 };

static int enqueue(GpuWork work, void *ctx, int sets, int runs)
{
    for (int i = 0; i < runs; i++)
        TRY(work(ctx, i % sets));
    return 0;
}

static int capture(const Gpu *g, GpuWork work, void *ctx, int sets, int runs, cudaGraphExec_t *out)
{
    cudaGraph_t graph;
    TRY(cuda_check(cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeThreadLocal), "capture"));
    int rc = enqueue(work, ctx, sets, runs);
    TRY(cuda_check(cudaStreamEndCapture(g->stream, &graph), "capture"));
    if (rc >= 0)
        rc = cuda_check(cudaGraphInstantiate(out, graph, 0), "graph");
    (void)cudaGraphDestroy(graph);
    return rc;
}

int gpu_time(const Gpu *g, GpuWork work, void *ctx, int sets, double *seconds)
{
    cudaEvent_t from, to;
    cudaGraphExec_t graph;
    double all[MOST_REPLAYS];
    float ms = 0;
    TRY(enqueue(work, ctx, sets, sets));
    TRY(g->be->sync(g->be));
    double t = gpu_now();
    TRY(enqueue(work, ctx, sets, sets));
    TRY(g->be->sync(g->be));
    double once = (gpu_now() - t) / sets;
    int rounds = (int)(4e-3 / (once * sets)) + 1, replays = g->tiny ? 1 : once > 0.02 ? 7 : MOST_REPLAYS;
    int runs = g->tiny || once > 0.05 ? sets : sets * (rounds > 20 ? 20 : rounds);
    TRY(capture(g, work, ctx, sets, runs, &graph));
    TRY(cuda_check(cudaEventCreateWithFlags(&from, 0), "event"));
    TRY(cuda_check(cudaEventCreateWithFlags(&to, 0), "event"));
    for (int i = -1; i < replays; i++) { /* the first warms up */
        TRY(cuda_check(cudaEventRecord(from, g->stream), "event"));
        TRY(cuda_check(cudaGraphLaunch(graph, g->stream), "graph"));
        TRY(cuda_check(cudaEventRecord(to, g->stream), "event"));
        TRY(cuda_check(cudaEventSynchronize(to), "event"));
        TRY(cuda_check(cudaEventElapsedTime(&ms, from, to), "event"));
        if (i >= 0)
            all[i] = (double)ms * 1e-3 / runs;
    }
    *seconds = gpu_median(all, replays);
    (void)cudaEventDestroy(from);
    (void)cudaEventDestroy(to);
    (void)cudaGraphExecDestroy(graph);
    return 0;
}

/* ---- the device and its ceilings ---- */

/* Dense bf16 with f32 accumulation, FLOP/s, from NVIDIA's data sheets; else by what a multiprocessor does per clock. */
static double peak_of(const struct cudaDeviceProp *p, int khz)
{
    static const struct {
        const char *name;
        double flops;
    } known[] = {{"H100 PCIe", 756e12}, {"H100 NVL", 835e12}, {"H100", 989.4e12}, {"H200 NVL", 835e12}, {"H200", 989.4e12}, {"GH200", 989.4e12},
                 {"H20", 148e12}, {"H800", 989.4e12}, {"A100", 312e12}, {"A800", 312e12}, {"A30", 165e12}, {"A40", 149.7e12},
                 {"L40S", 362e12}, {"L40", 181e12}, {"L4", 121e12}, {"GB200", 2500e12}, {"B200", 2250e12}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strstr(p->name, known[i].name))
            return known[i].flops;
    int per_clock = p->major >= 10 ? (p->major == 10 ? 8192 : 1024) : p->major == 9 ? 4096 : p->minor == 0 ? 2048 : 512;
    return (double)p->multiProcessorCount * per_clock * (double)khz * 1e3;
}

typedef struct {
    const Gpu *g;
    void *a[24], *b[24], *c[24];
    size_t bytes;
    int n;
} Ceiling;

static int copy_work(void *ctx, int set)
{
    Ceiling *c = ctx;
    return cuda_check(cudaMemcpyAsync(c->b[set], c->a[set], c->bytes, cudaMemcpyDeviceToDevice, c->g->stream), "copy");
}

static int gemm_work(void *ctx, int set)
{
    Ceiling *c = ctx;
    CudaState *st = cuda_state(c->g->be);
    const float one = 1, zero = 0;
    cublasStatus_t s = st->blas.gemm(st->handle, CUBLAS_OP_T, CUBLAS_OP_N, c->n, c->n, c->n, &one, c->a[set], CUDA_R_16BF, c->n, c->b[set],
                                     CUDA_R_16BF, c->n, &zero, c->c[set], CUDA_R_16BF, c->n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return s == CUBLAS_STATUS_SUCCESS ? 0 : err_set(ERR_BACKEND, "cuBLAS status %d", (int)s);
}

static int ceiling(const Gpu *g, GpuWork work, Ceiling *c, int64_t count, double *seconds)
{
    void **p[] = {c->a, c->b, c->c};
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 3; k++)
            TRY(gpu_random(g, &p[k][i], DTYPE_BF16, count));
    TRY(gpu_time(g, work, c, 2, seconds));
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 3; k++)
            g->be->free(g->be, p[k][i], (size_t)count * 2);
    return 0;
}

int gpu_ceilings(Gpu *g)
{
    static const int sides[] = {4096, 8192};
    struct cudaDeviceProp prop;
    double s, best = 0;
    int khz = 0, l2 = 0;
    TRY(cuda_check(cudaGetDeviceProperties(&prop, 0), "device"));
    TRY(cuda_check(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, 0), "device"));
    TRY(cuda_check(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, 0), "device"));
    g->l2 = (size_t)l2;
    g->peak = peak_of(&prop, khz);
    printf("info\tdevice\t%s\ninfo\tmultiprocessors\t%d\ninfo\tclock MHz\t%d\ninfo\tL2 MiB\t%d\ninfo\tpeak\t%.4g\n", prop.name,
           prop.multiProcessorCount, khz / 1000, l2 >> 20, g->peak);
    Ceiling c = {.g = g, .bytes = g->tiny ? 1 << 16 : (size_t)1 << 30};
    TRY(ceiling(g, copy_work, &c, (int64_t)(c.bytes / 2), &s));
    printf("info\tcopy\t%.4g\n", 2 * (double)c.bytes / s);
    for (int i = 0; i < 2; i++) {
        c.n = g->tiny ? 16 : sides[i];
        TRY(ceiling(g, gemm_work, &c, (int64_t)c.n * c.n, &s));
        double rate = 2.0 * c.n * c.n * c.n / s;
        best = rate > best ? rate : best;
    }
    printf("info\tgemm\t%.4g\n", best);
    fflush(stdout);
    return 0;
}

static int run(Gpu *g, int argc, char **argv)
{
    unsigned parts = 0;
    static const char *const names[] = {"ceilings", "kernels", "nets", "lora"};
    for (int i = 1; i < argc; i++) {
        unsigned known = !strcmp(argv[i], "all") ? 15 : 0;
        for (unsigned k = 0; k < 4; k++)
            known |= !strcmp(argv[i], names[k]) ? 1u << k : 0;
        if (!strcmp(argv[i], "tiny"))
            g->tiny = 1;
        else if (!strncmp(argv[i], "only=", 5))
            g->only = argv[i] + 5;
        else if (!known)
            return err_set(ERR_RANGE, "usage: bench_gpu [all|ceilings|kernels|nets|lora]... [tiny] [only=PART OF A NAME]");
        parts |= known;
    }
    parts = parts ? parts : 15;
    TRY(cuda_backend_create(&g->be, 0));
    g->stream = cuda_state(g->be)->stream;
    TRY(gpu_ceilings(g));
    if (parts & 2) {
        TRY(gpu_kernels(g));
        TRY(gpu_optimizers(g));
    }
    if (parts & 4)
        TRY(gpu_nets(g));
    return parts & 8 ? gpu_lora(g) : 0;
}

int main(int argc, char **argv)
{
    Gpu g = {0};
    int rc = run(&g, argc, argv);
    if (rc < 0)
        fprintf(stderr, "%s\n", err_message());
    backend_destroy(g.be);
    return rc < 0;
}
