/* GFLOP/s of one op as a share of the matmul rate measured in the same run. */
#ifndef BENCH_OP_BENCH_H
#define BENCH_OP_BENCH_H

#include "bench.h"

/* FLOP/s of a product that fits the caches well: "peak" in the tables. */
static inline double op_bench_peak(Backend *be, Dtype t)
{
    OpView in[2] = {bench_tensor(be, t, SHAPE(1, 2048, 1024)), bench_tensor(be, t, SHAPE(1024, 1024))};
    OpView out = bench_tensor(be, t, SHAPE(1, 2048, 1024));
    double s = bench_op(be, OP_LINEAR, &(OpAttr){0}, in, 2, &out, 1, 10);
    bench_free(be, &in[0]);
    bench_free(be, &in[1]);
    bench_free(be, &out);
    return 2.0 * 2048 * 1024 * 1024 / s;
}

/* About 0.1 s of runs at 200 GFLOP/s. */
static inline int op_bench_reps(double flops)
{
    double n = 2e10 / flops;
    return n < 3 ? 3 : n > 200 ? 200 : (int)n;
}

static inline void op_bench_line(const char *what, Dtype t, double flops, double seconds, double peak)
{
    printf("%-40s %-5s %9.1f us %8.1f GFLOP/s %5.1f %% of peak\n", what, dtype_name(t), seconds * 1e6, flops / seconds * 1e-9,
           100 * flops / seconds / peak);
}

#endif
