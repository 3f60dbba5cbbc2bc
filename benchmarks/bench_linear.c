/* Linear layers of SD 1.5 at 512x512 and of the base model: y, dx and dw. Usage: bench_linear [threads [part of a line]] */
#include "op_bench.h"

static const struct {
    int64_t items, rows, k, n;
} shapes[] = {
    {2, 4096, 320, 320},  {2, 4096, 320, 2560}, {2, 4096, 1280, 320}, {2, 1024, 640, 640},   {2, 1024, 640, 5120},
    {2, 1024, 2560, 640}, {2, 256, 1280, 1280}, {2, 256, 1280, 10240}, {2, 256, 5120, 1280}, {2, 64, 1280, 1280},
    {2, 77, 768, 320},    {2, 1, 1280, 1280},   {1, 4096, 320, 16},   {1, 4096, 16, 320},    {1, 256, 1280, 16},
    {16, 256, 96, 96},    {16, 256, 96, 768},   {16, 64, 192, 192},   {16, 64, 192, 1536},   {16, 16, 256, 256},
    {16, 1, 96, 384},
};

static void bench(Backend *be, size_t i, Dtype t, double peak, const char *only)
{
    int64_t items = shapes[i].items, rows = shapes[i].rows, k = shapes[i].k, n = shapes[i].n;
    double flops = 2.0 * (double)(items * rows) * (double)k * (double)n;
    int reps = op_bench_reps(flops);
    Shape w = SHAPE(n, k);
    OpView x = bench_tensor(be, t, SHAPE(items, rows, k)), y = bench_tensor(be, t, SHAPE(items, rows, n)), wt = bench_tensor(be, t, w);
    OpView dw = bench_tensor(be, DTYPE_F32, w), bias = bench_tensor(be, DTYPE_F32, SHAPE(n));
    char name[3][80];
    static const char *const what[3] = {"y", "dx", "dw"};
    for (int j = 0; j < 3; j++)
        snprintf(name[j], sizeof name[j], "%-3s [%d,%d,%d] -> %d", what[j], (int)items, (int)rows, (int)k, (int)n);
    OpView fwd[3] = {x, wt, bias}, back[2] = {y, wt}, grad[2] = {y, x};
    OpAttr a = {.has = OP_HAS_BIAS}, ax = {0}, aw = {.meta = {DTYPE_F32, w}};
    for (int j = 0; j < 3; j++) {
        if (!strstr(name[j], only))
            continue;
        double sec = j == 0   ? bench_op(be, OP_LINEAR, &a, fwd, 3, &y, 1, reps)
                     : j == 1 ? bench_op(be, OP_LINEAR_BWD_X, &ax, back, 2, &x, 1, reps)
                              : bench_op(be, OP_LINEAR_BWD_W, &aw, grad, 2, &dw, 1, reps);
        op_bench_line(name[j], t, flops, sec, peak);
    }
    OpView *all[] = {&x, &y, &wt, &dw, &bias};
    for (int j = 0; j < 5; j++)
        bench_free(be, all[j]);
}

int main(int argc, char **argv)
{
    Backend *be;
    if (cpu_backend_create(&be, argc > 1 ? atoi(argv[1]) : 0, CPU_ISA_AVX512) < 0) {
        fprintf(stderr, "%s\n", err_message());
        return 1;
    }
    for (int bf = 0; bf < 2; bf++) {
        Dtype t = bf ? DTYPE_BF16 : DTYPE_F32;
        double peak = op_bench_peak(be, t);
        printf("%s peak: %.1f GFLOP/s on %d threads\n", dtype_name(t), peak * 1e-9, be->threads);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            bench(be, i, t, peak, argc > 2 ? argv[2] : "");
    }
    backend_destroy(be);
    return 0;
}
