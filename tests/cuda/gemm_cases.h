/* Matrix products, convolutions and head sizes that reach every branch of their CUDA kernels. */
#ifndef TESTS_CUDA_GEMM_CASES_H
#define TESTS_CUDA_GEMM_CASES_H

#include "cpu/harness.h"

#define LINEAR(nm, h, ...) {.name = nm, .kind = OP_LINEAR, .attr = {.has = h}, .tol = 3e-5, .items = 1, .skip_fd = 1, .nin = __VA_ARGS__}

static const Case linear_cases[] = {
    LINEAR("linear", 0, 2, .in = {IN('T', 2, 5, 16), IN('T', 24, 16)}),
    LINEAR("linear bias", OP_HAS_BIAS, 3, .in = {IN('T', 3, 7, 40), IN('T', 9, 40), IN('P', 9)}),
    LINEAR("linear bias residual", OP_HAS_BIAS | OP_HAS_RES, 4, .in = {IN('T', 2, 3, 4, 8), IN('T', 16, 8), IN('P', 16), IN('T', 2, 3, 4, 16)}),
    LINEAR("linear rows", OP_HAS_BIAS, 3, .in = {IN('T', 4, 33), IN('T', 5, 33), IN('P', 5)}),
};

#define LOW(nm, k, h, n_, ...) \
    {.name = nm, .kind = k, .attr = {.has = h, .scale = 0.7f}, .tol = 3e-5, .items = 1, .skip_fd = 1, .nin = n_, .in = {__VA_ARGS__}}

/* x, w, first factor, second factor, bias, res, s: the ranks of each kernel, beyond them, and widths that no kernel takes. */
static const Case low_cases[] = {
    LOW("low rank 4", OP_LINEAR_LOW, OP_HAS_LOW_S, 5, IN('T', 2, 70, 40), IN('T', 24, 40), IN('T', 4, 40), IN('T', 24, 4), IN('C', 1)),
    LOW("low rank 16, bias, residual", OP_LINEAR_LOW, OP_HAS_BIAS | OP_HAS_RES | OP_HAS_LOW_S, 7, IN('T', 2, 3, 24, 72), IN('T', 136, 72),
        IN('T', 16, 72), IN('T', 136, 16), IN('P', 136), IN('T', 2, 3, 24, 136), IN('C', 1)),
    LOW("low rank 24, bias", OP_LINEAR_LOW, OP_HAS_BIAS, 5, IN('T', 1, 30, 136), IN('T', 16, 136), IN('T', 24, 136), IN('T', 16, 24), IN('P', 16)),
    LOW("low rank 63, residual", OP_LINEAR_LOW, OP_HAS_RES, 5, IN('T', 2, 33, 64), IN('T', 48, 64), IN('T', 63, 64), IN('T', 48, 63),
        IN('T', 2, 33, 48)),
    LOW("low rank 72", OP_LINEAR_LOW, OP_HAS_BIAS | OP_HAS_LOW_S, 6, IN('T', 2, 5, 40), IN('T', 24, 40), IN('T', 72, 40), IN('T', 24, 72),
        IN('P', 24), IN('C', 1)),
    LOW("low rank of 33 channels", OP_LINEAR_LOW, OP_HAS_BIAS | OP_HAS_RES, 6, IN('T', 4, 33), IN('T', 5, 33), IN('T', 2, 33), IN('T', 5, 2),
        IN('P', 5), IN('T', 4, 5)),
    LOW("low rank 4 backward", OP_LINEAR_LOW_BWD_X, OP_HAS_LOW_S, 5, IN('T', 2, 70, 24), IN('T', 24, 40), IN('T', 24, 4), IN('T', 4, 40), IN('C', 1)),
    LOW("low rank 16 backward, residual", OP_LINEAR_LOW_BWD_X, OP_HAS_RES | OP_HAS_LOW_S, 6, IN('T', 2, 3, 24, 72), IN('T', 72, 136),
        IN('T', 72, 16), IN('T', 16, 136), IN('T', 2, 3, 24, 136), IN('C', 1)),
    LOW("low rank 20 backward", OP_LINEAR_LOW_BWD_X, 0, 4, IN('T', 1, 30, 136), IN('T', 136, 16), IN('T', 136, 20), IN('T', 20, 16)),
    LOW("low rank 64 backward, residual", OP_LINEAR_LOW_BWD_X, OP_HAS_RES, 5, IN('T', 2, 33, 64), IN('T', 64, 48), IN('T', 64, 64),
        IN('T', 64, 48), IN('T', 2, 33, 48)),
    LOW("low rank of 33 channels backward", OP_LINEAR_LOW_BWD_X, OP_HAS_RES, 5, IN('T', 4, 33), IN('T', 33, 5), IN('T', 33, 2), IN('T', 2, 5),
        IN('T', 4, 5)),
};

#define CONV(nm, h, st, t, l, b, r, ...)                                                                                     \
    {.name = nm, .kind = OP_CONV2D, .attr = {.stride = st, .pad = {t, l, b, r}, .has = h}, .tol = 3e-5, .items = 1, .skip_fd = 1, \
     .nin = __VA_ARGS__}

#define CONV_UP(nm, h, uh, uw, ...)                                                                                               \
    {.name = nm, .kind = OP_CONV2D, .attr = {.stride = 1, .pad = {1, 1, 1, 1}, .has = h, .up = {uh, uw}}, .tol = 3e-5, .items = 1, \
     .skip_fd = 1, .nin = __VA_ARGS__}

static const Case conv_cases[] = {
    CONV("conv 3x3", OP_HAS_BIAS, 1, 1, 1, 1, 1, 3, .in = {IN('T', 2, 6, 7, 16), IN('T', 24, 16, 3, 3), IN('P', 24)}),
    CONV("conv 3x3, 40 of 72, residual", OP_HAS_BIAS | OP_HAS_RES, 1, 1, 1, 1, 1, 4,
         .in = {IN('T', 2, 9, 8, 40), IN('T', 72, 40, 3, 3), IN('P', 72), IN('T', 2, 9, 8, 72)}),
    CONV("conv 3x3 stride 2", OP_HAS_BIAS, 2, 1, 1, 1, 1, 3, .in = {IN('T', 2, 9, 8, 16), IN('T', 8, 16, 3, 3), IN('P', 8)}),
    CONV("conv 3x3 stride 2, padded below", OP_HAS_BIAS, 2, 0, 0, 1, 1, 3, .in = {IN('T', 1, 8, 10, 8), IN('T', 16, 8, 3, 3), IN('P', 16)}),
    CONV("conv 1x1", 0, 1, 0, 0, 0, 0, 2, .in = {IN('T', 2, 5, 5, 64), IN('T', 32, 64, 1, 1)}),
    CONV("conv from 4 channels", OP_HAS_BIAS, 1, 1, 1, 1, 1, 3, .in = {IN('T', 2, 6, 6, 4), IN('T', 40, 4, 3, 3), IN('P', 40)}),
    CONV("conv 1x1, 12 to 71, residual", OP_HAS_BIAS | OP_HAS_RES, 1, 0, 0, 0, 0, 4,
         .in = {IN('T', 2, 5, 14, 12), IN('T', 71, 12, 1, 1), IN('P', 71), IN('T', 2, 5, 14, 71)}),
    CONV("conv 1x1, 68 to 70", 0, 1, 0, 0, 0, 0, 2, .in = {IN('T', 1, 5, 9, 68), IN('T', 70, 68, 1, 1)}),
    CONV("conv to 3 channels", OP_HAS_BIAS, 1, 1, 1, 1, 1, 3, .in = {IN('T', 1, 7, 6, 32), IN('T', 3, 32, 3, 3), IN('P', 3)}),
    CONV_UP("conv of a doubled image", OP_HAS_BIAS, 8, 10, 3, .in = {IN('T', 2, 4, 5, 16), IN('T', 24, 16, 3, 3), IN('P', 24)}),
    CONV_UP("conv of a quadrupled image, residual", OP_HAS_RES, 8, 12, 3, .in = {IN('T', 2, 2, 3, 12), IN('T', 8, 12, 3, 3), IN('T', 2, 8, 12, 8)}),
    CONV_UP("conv of an image of another size", OP_HAS_BIAS, 7, 13, 3, .in = {IN('T', 2, 5, 6, 8), IN('T', 40, 8, 3, 3), IN('P', 40)}),
    CONV_UP("conv of a smaller image", 0, 3, 8, 2, .in = {IN('T', 1, 5, 4, 8), IN('T', 8, 8, 3, 3)}),
    CONV("conv several tiles", OP_HAS_BIAS, 1, 1, 1, 1, 1, 3, .in = {IN('T', 3, 12, 13, 72), IN('T', 136, 72, 3, 3), IN('P', 136)}),
};

#define FLASH(nm, h, sc, cs, ...) \
    {.name = nm, .kind = OP_ATTENTION, .attr = {.heads = h, .scale = sc, .causal = cs}, .tol = 3e-5, .items = 1, .skip_fd = 1, .nin = 3, .in = {__VA_ARGS__}}

static const Case flash_cases[] = {
    FLASH("heads of 40", 2, 0.16f, 0, IN('T', 2, 70, 80), IN('T', 2, 70, 80), IN('T', 2, 70, 80)),
    FLASH("heads of 64, causal", 2, 0.125f, 1, IN('T', 1, 77, 128), IN('T', 1, 77, 128), IN('T', 1, 77, 128)),
    FLASH("heads of 80, cross", 1, 0.11f, 0, IN('T', 2, 66, 80), IN('T', 2, 77, 80), IN('T', 2, 77, 80)),
    FLASH("heads of 128", 1, 0.09f, 0, IN('T', 1, 130, 128), IN('T', 1, 3, 128), IN('T', 1, 3, 128)),
    FLASH("heads of 160", 2, 0.08f, 0, IN('T', 1, 20, 320), IN('T', 1, 150, 320), IN('T', 1, 150, 320)),
    FLASH("heads of 16", 3, 0.25f, 0, IN('T', 2, 5, 48), IN('T', 2, 9, 48), IN('T', 2, 9, 48)),
    FLASH("heads of 200", 1, 0.07f, 0, IN('T', 1, 9, 200), IN('T', 1, 11, 200), IN('T', 1, 11, 200)),
};

#endif
