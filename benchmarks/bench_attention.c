/* Attention at the sizes of SD 1.5 and of the small base model: GFLOP/s and share of the measured FMA peak.
 * FLOP counted: 4 N H Lq Lk D forward, 10 backward (5 products). Usage: bench_attention [threads]. */
#include "bench.h"

typedef struct {
    const char *name;
    int64_t n, lq, lk, heads, width;
    int causal, back;
} Size;

static const Size sizes[] = {
    {"unet 64x64 self", 2, 4096, 4096, 8, 40, 0, 1}, {"unet 32x32 self", 2, 1024, 1024, 8, 80, 0, 1},
    {"unet 16x16 self", 2, 256, 256, 8, 160, 0, 1},  {"unet 64x64 cross", 2, 4096, 77, 8, 40, 0, 1},
    {"text causal", 2, 77, 77, 12, 64, 1, 1},        {"vae 64x64", 1, 4096, 4096, 1, 512, 0, 0},
    {"small 16x16", 16, 256, 256, 6, 32, 0, 1},
};

int main(int argc, char **argv)
{
    Backend *be = NULL;
    if (cpu_backend_create(&be, argc > 1 ? atoi(argv[1]) : 0, CPU_ISA_AVX512) < 0) {
        fprintf(stderr, "%s\n", err_message());
        return 1;
    }
    double peak = bench_peak(be->threads, ((const CpuState *)be->impl)->isa);
    printf("threads %d, fp32 FMA peak %.0f GFLOP/s\n", be->threads, peak);
    printf("%-18s %-5s %10s %8s %6s %10s %8s %6s\n", "attention", "dtype", "fwd ms", "GFLOP/s", "peak", "bwd ms", "GFLOP/s", "peak");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (Dtype t = DTYPE_F32; t <= DTYPE_BF16; t++) {
            const Size *s = &sizes[i];
            Shape q = SHAPE(s->n, s->lq, s->heads * s->width), k = SHAPE(s->n, s->lk, s->heads * s->width);
            OpAttr attr = {.heads = (int32_t)s->heads, .scale = 0.15f, .causal = s->causal};
            OpView in[6] = {bench_tensor(be, t, q), bench_tensor(be, t, q), bench_tensor(be, t, k), bench_tensor(be, t, k),
                            bench_tensor(be, t, q), bench_tensor(be, DTYPE_F32, SHAPE(s->n, s->heads, s->lq))};
            OpView out[3] = {bench_tensor(be, t, q), bench_tensor(be, t, k), bench_tensor(be, t, k)};
            double flop = 4.0 * (double)(s->n * s->heads * s->lq * s->lk * s->width) * (s->causal ? 0.5 : 1);
            int reps = flop > 1e10 ? 2 : 8;
            double f = bench_op(be, OP_ATTENTION, &attr, in + 1, 3, in + 4, 2, reps);
            printf("%-18s %-5s %10.3f %8.0f %5.0f%%", s->name, dtype_name(t), f * 1e3, flop / f * 1e-9, flop / f * 1e-7 / peak);
            if (s->back) {
                double b = bench_op(be, OP_ATTENTION_BWD, &attr, in, 6, out, 3, reps);
                printf(" %10.3f %8.0f %5.0f%%", b * 1e3, 2.5 * flop / b * 1e-9, 2.5 * flop / b * 1e-7 / peak);
            }
            printf("\n");
            for (int j = 0; j < 6; j++)
                bench_free(be, &in[j]);
            for (int j = 0; j < 3; j++)
                bench_free(be, &out[j]);
        }
    backend_destroy(be);
    return 0;
}
