/* Matrix products over rows of tokens, cut into oneDNN tiles; used by linear.c and by 1x1 convolutions. */
#ifndef CPU_GEMM_H
#define CPU_GEMM_H

#include "cpu/dnnl.h"

typedef struct {
    Dtype type, out;             /* of the operands and of the result: F32 or BF16 */
    int64_t items, item_rows;    /* rows of x: items * item_rows; the value of a row never depends on `items` */
    int64_t m, k, n;
    int forward;                 /* weight is [n,k] (y = x w^T); else [k,n] */
    int bias, res;
} GemmShape;

/* out[r,n] = x[r,k] w (+ bias) (+ res). Two ways of cutting: bands of rows that write the result in place, and
 * (few rows, many weights) slabs of output columns through a float tile, so that each weight is read once. */
typedef struct {
    GemmShape s;
    int64_t groups, group_rows, height, bands; /* rows: groups of group_rows, each in `bands` of `height` */
    int64_t slab, slabs;                       /* columns */
    const CpuTile *tile[2][2];                 /* [last band][last slab] */
    int row_free;                              /* the number of rows may change freely: a row's bits stay */
    size_t workspace;
} GemmPlan;

int cpu_gemm_plan(Backend *be, const GemmShape *s, GemmPlan *p);
size_t cpu_gemm_scratch(const Backend *be, const GemmPlan *p);
/* res may be out. */
int cpu_gemm_run(const Backend *be, const GemmPlan *p, const void *x, const void *w, const float *bias, const void *res,
                 void *out, void *scratch);

/* out[m,n] = a[k,m]^T b[k,n]: k rows in chunks, chunks in `parts` partial sums, m in slabs. */
typedef struct {
    GemmShape s;
    int64_t slab, slabs, chunk, chunks, parts;
    const CpuTile *tile[2][2][2];              /* [last slab][last chunk][add to the sum] */
    size_t workspace;
} GemmOuter;

int cpu_gemm_outer_plan(Backend *be, const GemmShape *s, GemmOuter *p);
size_t cpu_gemm_outer_scratch(const Backend *be, const GemmOuter *p);
int cpu_gemm_outer_run(const Backend *be, const GemmOuter *p, const void *a, const void *b, void *out, void *scratch);

#endif
