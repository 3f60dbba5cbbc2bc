/* Convolutions as one matrix product over gathered pixels, straight from the OIHW weights of the file.
 *
 * For layers with few pixels and many weights (SD 1.5 at 16x16 and 8x8: 470 of its 860 million parameters) a packed copy
 * for each direction would cost more memory, and at start more time, than gathering the pixels on every run. */
#ifndef CPU_CONV_GEMM_H
#define CPU_CONV_GEMM_H

#include "cpu/conv.h"
#include "cpu/gemm.h"

typedef struct {
    ConvShape s;
    int forward, res, bias;
    int64_t group, groups;       /* items per product */
    GemmPlan plan[2];            /* forward: [last group] */
    /* dx: blocks of input channels; a block's columns of the weight are copied together, multiplied and added up. */
    int64_t block, blocks;
    const CpuTile *tile[2][2];   /* [last group][last block] */
    size_t workspace;
} ConvGemm;

/* From the shape alone. */
int cpu_conv_gemm_wanted(const ConvShape *s);
int cpu_conv_gemm_plan(Backend *be, const ConvShape *s, int forward, int bias, int res, ConvGemm *g);
size_t cpu_conv_gemm_scratch(const Backend *be, const ConvGemm *g);
/* forward: from = x, to = y. Else dx: from = dy, to = dx. res may be `to`. */
int cpu_conv_gemm_run(const Backend *be, const ConvGemm *g, const void *from, const void *w, const float *bias, const void *res,
                      void *to, void *scratch);

#endif
