/* Few and small cases that reach every barrier of the attention, convolution, low-rank and norm kernels with more than one turn of its loop. */
#ifndef TESTS_CUDA_MUTATE_CASES_H
#define TESTS_CUDA_MUTATE_CASES_H

#include "cuda/gemm_cases.h"

static const Case attention_short[] = {
    FLASH("heads of 32", 1, 0.16f, 0, IN('T', 1, 40, 32), IN('T', 1, 210, 32), IN('T', 1, 210, 32)),
    FLASH("heads of 32, more queries", 1, 0.16f, 0, IN('T', 1, 210, 32), IN('T', 1, 40, 32), IN('T', 1, 40, 32)),
    FLASH("heads of 12", 1, 0.25f, 0, IN('T', 1, 3, 12), IN('T', 1, 270, 12), IN('T', 1, 270, 12)),
    FLASH("heads of 12, more queries", 1, 0.25f, 0, IN('T', 1, 270, 12), IN('T', 1, 3, 12), IN('T', 1, 3, 12)),
};

static const Case conv_short[] = {
    CONV("conv 3x3", OP_HAS_BIAS, 1, 1, 1, 1, 1, 3, .in = {IN('T', 1, 12, 11, 40), IN('T', 24, 40, 3, 3), IN('P', 24)}),
};

static const Case linear_short[] = {
    LOW("low rank 16", OP_LINEAR_LOW, OP_HAS_BIAS, 5, IN('T', 1, 30, 104), IN('T', 24, 104), IN('T', 16, 104), IN('T', 24, 16), IN('P', 24)),
    LOW("low rank 16 backward", OP_LINEAR_LOW_BWD_X, 0, 4, IN('T', 1, 30, 136), IN('T', 136, 24), IN('T', 136, 16), IN('T', 16, 24)),
};

static const Case norm_short[] = {
    {.name = "group norm", .kind = OP_GROUP_NORM, .attr = {.groups = 4, .eps = 1e-5f, .act = ACT_SILU}, .nin = 3,
     .in = {IN('T', 2, 9, 9, 32), IN('P', 32), IN('P', 32)}, .tol = 3e-5, .tol_bf = 4e-2},
    {.name = "group norm of 20", .kind = OP_GROUP_NORM, .attr = {.groups = 4, .eps = 1e-5f}, .nin = 3,
     .in = {IN('T', 2, 81, 20), IN('P', 20), IN('P', 20)}, .tol = 3e-5, .tol_bf = 4e-2},
    {.name = "layer norm", .kind = OP_LAYER_NORM, .attr = {.eps = 1e-5f}, .nin = 3, .in = {IN('T', 9, 72), IN('P', 72), IN('P', 72)},
     .tol = 3e-5, .tol_bf = 4e-2},
};

#endif
