/* Norms, activations and element-wise ops: GB/s of the bytes that must move (every input read once, every output written
 * once) and share of the measured copy rate; small tensors stay in cache and go above it. Usage: bench_norm [threads]. */
#include "bench.h"

typedef struct {
    const char *name;
    OpKind kind;
    OpAttr attr;
    char in[7], out[4]; /* X: like x, H: half of x's channels, C: P[C], R: P[rows], G: P[N, groups] */
    Shape x;
} Item;

#define DIMS(...) {sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), {__VA_ARGS__}}
#define GN(n, a, g) n, OP_GROUP_NORM, {.groups = g, .eps = 1e-5f, .act = a}, "XCC", "XGG"
#define GNB(n, a, g) n, OP_GROUP_NORM_BWD, {.groups = g, .eps = 1e-5f, .act = a}, "XXCCGG", "XCC"

static const Item items[] = {
    {GN("group_norm 64x64x320", ACT_NONE, 32), DIMS(2, 64, 64, 320)},
    {GN("group_norm+silu 64x64x320", ACT_SILU, 32), DIMS(2, 64, 64, 320)},
    {GN("group_norm+silu 16x16x1280", ACT_SILU, 32), DIMS(2, 16, 16, 1280)},
    {GN("group_norm+silu 512x512x128", ACT_SILU, 32), DIMS(1, 512, 512, 128)},
    {GNB("group_norm+silu bwd 64x64x320", ACT_SILU, 32), DIMS(1, 64, 64, 320)},
    {"layer_norm 4096x320", OP_LAYER_NORM, {.eps = 1e-5f}, "XCC", "XRR", DIMS(2, 4096, 320)},
    {"layer_norm bwd 4096x320", OP_LAYER_NORM_BWD, {.eps = 1e-5f}, "XXCRR", "XCC", DIMS(2, 4096, 320)},
    {"layer_norm 256x1280", OP_LAYER_NORM, {.eps = 1e-5f}, "XCC", "XRR", DIMS(2, 256, 1280)},
    {"silu", OP_ACT, {.act = ACT_SILU}, "X", "X", DIMS(2, 4096, 1280)},
    {"gelu", OP_ACT, {.act = ACT_GELU}, "X", "X", DIMS(2, 4096, 1280)},
    {"silu bwd", OP_ACT_BWD, {.act = ACT_SILU}, "XX", "X", DIMS(2, 4096, 1280)},
    {"geglu 4096x1280", OP_GEGLU, {.act = 0}, "X", "H", DIMS(2, 4096, 2560)},
    {"geglu bwd 4096x1280", OP_GEGLU_BWD, {.act = 0}, "HX", "X", DIMS(2, 4096, 2560)},
    {"add", OP_ADD, {.act = 0}, "XX", "X", DIMS(2, 4096, 1280)},
    {"add_bcast per item", OP_ADD_BCAST, {.bcast = BCAST_CHANNEL}, "XC", "X", DIMS(2, 4096, 320)},
};

static OpView tensor(Backend *be, const Item *it, char kind, Dtype t)
{
    Shape s = it->x;
    int64_t last = shape_last(&s);
    switch (kind) {
    case 'H': s.dim[s.ndim - 1] = last / 2; break;
    case 'C': s = SHAPE(last); break;
    case 'R': s = SHAPE(shape_rows(&it->x)); break;
    case 'G': s = SHAPE(s.dim[0], it->attr.groups); break;
    default: break;
    }
    for (int i = s.ndim; i < OP_MAX_DIM; i++)
        s.dim[i] = 1;
    return bench_tensor(be, kind == 'X' || kind == 'H' ? t : DTYPE_F32, s);
}

int main(int argc, char **argv)
{
    Backend *be = NULL;
    if (cpu_backend_create(&be, argc > 1 ? atoi(argv[1]) : 0, CPU_ISA_AVX512) < 0) {
        fprintf(stderr, "%s\n", err_message());
        return 1;
    }
    double copy = bench_copy(be);
    printf("threads %d, copy %.1f GB/s\n%-32s %-5s %9s %7s %6s\n", be->threads, copy, "op", "dtype", "ms", "GB/s", "copy");
    for (size_t i = 0; i < sizeof items / sizeof *items; i++)
        for (Dtype t = DTYPE_F32; t <= DTYPE_BF16; t++) {
            const Item *it = &items[i];
            OpView in[6], out[3];
            int nin = (int)strlen(it->in), nout = (int)strlen(it->out);
            double bytes = 0;
            for (int k = 0; k < nin; k++) {
                in[k] = tensor(be, it, it->in[k], t);
                bytes += (double)shape_count(&in[k].shape) * (double)dtype_size(in[k].dtype);
            }
            for (int k = 0; k < nout; k++) {
                out[k] = tensor(be, it, it->out[k], t);
                bytes += (double)shape_count(&out[k].shape) * (double)dtype_size(out[k].dtype);
            }
            double s = bench_op(be, it->kind, &it->attr, in, nin, out, nout, 12);
            printf("%-32s %-5s %9.3f %7.1f %5.0f%%\n", it->name, dtype_name(t), s * 1e3, bytes / s * 1e-9,
                   bytes / s * 1e-7 / copy);
            for (int k = 0; k < nin; k++)
                bench_free(be, &in[k]);
            for (int k = 0; k < nout; k++)
                bench_free(be, &out[k]);
        }
    backend_destroy(be);
    return 0;
}
