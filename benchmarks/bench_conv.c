/* Convolutions of SD 1.5 (UNet and VAE at 512x512) and of the base model: y, dx and dw. Those that take the Winograd kernel are
 * also run without it. Usage: bench_conv [threads [part of a line]] */
#include "cpu/conv_winograd.h"
#include "op_bench.h"

static const struct {
    int64_t items, h, w, ci, co;
    int k, stride, grad;   /* grad: also dx and dw */
} shapes[] = {
    {2, 64, 64, 4, 320, 3, 1, 0},     {2, 64, 64, 320, 320, 3, 1, 1},   {2, 64, 64, 960, 320, 3, 1, 0},
    {2, 64, 64, 640, 640, 3, 1, 0},   {2, 64, 64, 320, 320, 3, 2, 1},   {2, 64, 64, 320, 320, 1, 1, 1},
    {2, 32, 32, 640, 640, 3, 1, 1},   {2, 32, 32, 1920, 640, 3, 1, 0},  {2, 32, 32, 1280, 1280, 3, 1, 1},
    {2, 16, 16, 1280, 1280, 3, 1, 1}, {2, 16, 16, 2560, 1280, 3, 1, 1}, {2, 8, 8, 1280, 1280, 3, 1, 1},
    {2, 8, 8, 2560, 1280, 3, 1, 1},   {2, 64, 64, 320, 4, 3, 1, 0},     {1, 64, 64, 512, 512, 3, 1, 0},
    {1, 128, 128, 512, 512, 3, 1, 0}, {1, 256, 256, 512, 512, 3, 1, 0}, {1, 256, 256, 256, 256, 3, 1, 0},
    {1, 512, 512, 256, 128, 3, 1, 0}, {1, 512, 512, 128, 128, 3, 1, 0}, {1, 512, 512, 128, 3, 3, 1, 0},
    {16, 16, 16, 96, 96, 3, 1, 1},    {16, 16, 16, 288, 96, 3, 1, 1},   {16, 16, 16, 96, 96, 3, 2, 1},
    {16, 8, 8, 192, 192, 3, 1, 1},    {16, 4, 4, 256, 256, 3, 1, 1},    {1, 16, 16, 96, 96, 3, 1, 0},
    {8, 64, 64, 32, 32, 3, 1, 1},     {8, 64, 64, 3, 32, 3, 1, 1},      {8, 64, 64, 32, 3, 3, 1, 1},
    {8, 32, 32, 64, 64, 3, 1, 1},     {8, 64, 64, 32, 32, 3, 2, 1},
};

static void bench(Backend *be, Backend *direct, size_t i, Dtype t, double peak, const char *only)
{
    int64_t n = shapes[i].items, ci = shapes[i].ci, co = shapes[i].co;
    int k = shapes[i].k, p = k / 2, s = shapes[i].stride;
    Shape xs = SHAPE(n, shapes[i].h, shapes[i].w, ci), ws = SHAPE(co, ci, k, k);
    Shape ys = SHAPE(n, (shapes[i].h + 2 * p - k) / s + 1, (shapes[i].w + 2 * p - k) / s + 1, co);
    OpAttr a = {.stride = s, .pad = {p, p, p, p}, .has = OP_HAS_BIAS}, ax = a, aw = a;
    double flops = 2.0 * (double)shape_rows(&ys) * (double)(ci * co) * (double)(k * k);
    int reps = op_bench_reps(flops);
    OpView x = bench_tensor(be, t, xs), y = bench_tensor(be, t, ys), w = bench_tensor(be, t, ws);
    OpView dw = bench_tensor(be, DTYPE_F32, ws), bias = bench_tensor(be, DTYPE_F32, SHAPE(co));
    OpView fwd[3] = {x, w, bias}, back[2] = {y, w}, grad[2] = {y, x};
    char name[80];
    ax.has = aw.has = 0;
    ax.meta = (Meta){t, xs};
    aw.meta = (Meta){DTYPE_F32, ws};
    for (int j = 0; j < (shapes[i].grad ? 3 : 1); j++) {
        snprintf(name, sizeof name, "%-3s [%d,%d,%d,%d] -> %d %dx%d/%d", j == 0 ? "y" : j == 1 ? "dx" : "dw", (int)n,
                 (int)shapes[i].h, (int)shapes[i].w, (int)ci, (int)co, k, k, s);
        if (!strstr(name, only))
            continue;
        ConvShape shape = conv_shape(&xs, &ws, &ys, &a, t);
        int pair = j < 2 && cpu_conv_winograd_wanted(be, &shape);
        for (int m = 0; m < (pair ? 2 : 1); m++) {
            Backend *b = m ? direct : be;
            double sec = j == 0   ? bench_op(b, OP_CONV2D, &a, fwd, 3, &y, 1, reps)
                         : j == 1 ? bench_op(b, OP_CONV2D_BWD_X, &ax, back, 2, &x, 1, reps)
                                  : bench_op(b, OP_CONV2D_BWD_W, &aw, grad, 2, &dw, 1, reps);
            op_bench_line(m ? "    direct" : name, t, flops, sec, peak);
        }
    }
    OpView *all[] = {&x, &y, &w, &dw, &bias};
    for (int j = 0; j < 5; j++)
        bench_free(be, all[j]);
}

int main(int argc, char **argv)
{
    Backend *be, *direct;
    int threads = argc > 1 ? atoi(argv[1]) : 0, rc = cpu_backend_create(&be, threads, CPU_ISA_AVX512);
    setenv("ATELIER_WINOGRAD", "off", 1);
    if (rc < 0 || cpu_backend_create(&direct, threads, CPU_ISA_AVX512) < 0) {
        fprintf(stderr, "%s\n", err_message());
        return 1;
    }
    for (int bf = 0; bf < 2; bf++) {
        Dtype t = bf ? DTYPE_BF16 : DTYPE_F32;
        double peak = op_bench_peak(be, t);
        printf("%s peak: %.1f GFLOP/s on %d threads\n", dtype_name(t), peak * 1e-9, be->threads);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            bench(be, direct, i, t, peak, argc > 2 ? argv[2] : "");
    }
    backend_destroy(be);
    backend_destroy(direct);
    return 0;
}
