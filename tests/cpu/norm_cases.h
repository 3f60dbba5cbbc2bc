/* The norm family. */
#ifndef TESTS_CPU_NORM_CASES_H
#define TESTS_CPU_NORM_CASES_H

#include "cpu/harness.h"

#define GN(nm, a, eps_, g, items_, fd, ...)                                                                             \
    {.name = nm, .kind = OP_GROUP_NORM, .attr = {.groups = g, .eps = eps_, .act = a}, .nin = 3, .in = {__VA_ARGS__},     \
     .items = items_, .skip_fd = fd}

static const Case norm_cases[] = {
    GN("group_norm", ACT_NONE, 1e-5f, 4, 1, 0, IN('T', 2, 3, 5, 8), IN('P', 8), IN('P', 8)),
    GN("group_norm silu", ACT_SILU, 1e-6f, 3, 1, 0, IN('T', 3, 7, 2, 21), IN('P', 21), IN('P', 21)),
    GN("group_norm one group", ACT_SILU, 1e-5f, 1, 1, 0, IN('T', 2, 9, 5), IN('P', 5), IN('P', 5)),
    GN("group_norm one channel each", ACT_NONE, 1e-5f, 33, 1, 0, IN('T', 1, 13, 33), IN('P', 33), IN('P', 33)),
    GN("group_norm one row", ACT_SILU, 1e-5f, 8, 1, 0, IN('T', 2, 1, 1, 64), IN('P', 64), IN('P', 64)),
    /* The saved mean is a float: 4e-6 of 100 is 1.3e-5 of the deviation. */
    {.name = "group_norm far mean", .kind = OP_GROUP_NORM, .attr = {.groups = 8, .eps = 1e-5f}, .nin = 3, .tol = 3e-5,
     .in = {IN_RANGE('T', 99.5, 100.5, 2, 17, 19, 40), IN('P', 40), IN('P', 40)}, .items = 1, .skip_fd = 1},
    GN("group_norm 32 of 320", ACT_SILU, 1e-5f, 32, 1, 1, IN('T', 2, 16, 16, 320), IN('P', 320), IN('P', 320)),
    GN("group_norm several chunks", ACT_SILU, 1e-5f, 32, 1, 1, IN('T', 2, 33, 17, 96), IN('P', 96), IN('P', 96)),
    {.name = "layer_norm", .kind = OP_LAYER_NORM, .attr = {.eps = 1e-5f}, .nin = 3,
     .in = {IN('T', 2, 3, 7), IN('P', 7), IN('P', 7)}, .items = 1},
    {.name = "layer_norm 320", .kind = OP_LAYER_NORM, .attr = {.eps = 1e-5f}, .nin = 3,
     .in = {IN('T', 3, 65, 320), IN('P', 320), IN('P', 320)}, .items = 1, .skip_fd = 1},
    {.name = "layer_norm 1283, far mean", .kind = OP_LAYER_NORM, .attr = {.eps = 1e-5f}, .nin = 3, .tol = 3e-5,
     .in = {IN_RANGE('T', 30, 31, 2, 20, 1283), IN('P', 1283), IN('P', 1283)}, .items = 1, .skip_fd = 1},
    {.name = "layer_norm one wide", .kind = OP_LAYER_NORM, .attr = {.eps = 1e-5f}, .nin = 3,
     .in = {IN('N', 5, 1), IN('C', 1), IN('C', 1)}, .items = 1, .skip_fd = 1},
    {.name = "rms_norm", .kind = OP_RMS_NORM, .attr = {.eps = 1e-3f}, .nin = 2, .in = {IN('T', 2, 3, 7), IN('P', 7)}, .items = 1},
    {.name = "rms_norm 320", .kind = OP_RMS_NORM, .attr = {.eps = 1e-6f}, .nin = 2, .in = {IN('T', 3, 65, 320), IN('P', 320)}, .items = 1,
     .skip_fd = 1},
    {.name = "rms_norm 1283, far mean", .kind = OP_RMS_NORM, .attr = {.eps = 1e-6f}, .nin = 2,
     .in = {IN_RANGE('T', 30, 31, 2, 20, 1283), IN('P', 1283)}, .items = 1, .skip_fd = 1},
    {.name = "l2_norm", .kind = OP_L2_NORM, .nin = 1, .in = {IN('T', 4, 19)}, .items = 1},
    {.name = "l2_norm 768", .kind = OP_L2_NORM, .nin = 1, .in = {IN('T', 70, 768)}, .items = 1, .skip_fd = 1},
};

#endif
