/* The loss family. */
#ifndef TESTS_CPU_LOSS_CASES_H
#define TESTS_CPU_LOSS_CASES_H

#include "cpu/harness.h"

#define PAIR(nm, k, fd, n, ...)                                                                              \
    {.name = nm, .kind = k, .nin = 3, .in = {IN('T', n, __VA_ARGS__), IN('T', n, __VA_ARGS__), IN('C', n)},  \
     .items = 1, .skip_fd = fd}

#define PIXEL(nm, k, fd, h, w, c)                                                                            \
    {.name = nm, .kind = OP_PIXEL_LOSS, .attr = {.loss = k}, .nin = 5, .in = {IN('T', 2, h, w, c), IN('T', 2, h, w, c), \
     IN('C', 2), IN_RANGE('C', 0.05, 1, 2), IN_RANGE('C', 0, 1, 2, h, w)}, .items = 1, .skip_fd = fd}

static const Case loss_cases[] = {
    PAIR("mse", OP_MSE, 0, 2, 3, 5, 4),
    PAIR("mse of a vector", OP_MSE, 0, 7, 1),
    PAIR("mse 64x64x4", OP_MSE, 1, 3, 64, 64, 4),
    PAIR("l1", OP_L1, 1, 2, 3, 5, 4),
    PAIR("l1 several pieces", OP_L1, 1, 2, 97, 131),
    PIXEL("masked l2", OP_LOSS_L2, 0, 5, 3, 4), PIXEL("masked l1", OP_LOSS_L1, 1, 5, 3, 4),
    PIXEL("huber", OP_LOSS_HUBER, 0, 5, 3, 4), PIXEL("smooth l1", OP_LOSS_SMOOTH_L1, 0, 5, 3, 4),
    PIXEL("huber, several pieces", OP_LOSS_HUBER, 1, 97, 33, 4),
    {.name = "xent", .kind = OP_XENT, .nin = 2, .in = {IN_RANGE('T', -3, 3, 5, 7), IN_RANGE('I', 0, 7, 5)}, .items = 1},
    {.name = "xent one class", .kind = OP_XENT, .nin = 2, .in = {IN('N', 4, 1), IN_RANGE('I', 0, 1, 4)}, .items = 1},
    {.name = "xent wide, large", .kind = OP_XENT, .nin = 2, .in = {IN_RANGE('T', -90, 90, 9, 1003), IN_RANGE('I', 0, 1003, 9)},
     .items = 1, .skip_fd = 1},
    {.name = "xent 256", .kind = OP_XENT, .nin = 2, .in = {IN('T', 64, 256), IN_RANGE('I', 0, 256, 64)}, .items = 1, .skip_fd = 1},
    {.name = "gauss_sample", .kind = OP_GAUSS_SAMPLE, .nin = 2, .in = {IN_RANGE('T', -2, 2, 2, 3, 4, 8), IN('N', 2, 3, 4, 4)},
     .items = 1},
    {.name = "gauss_sample clamped", .kind = OP_GAUSS_SAMPLE, .nin = 2,
     .in = {IN_RANGE('T', -45, 30, 2, 30, 34), IN('N', 2, 30, 17)}, .items = 1, .skip_fd = 1},
    {.name = "gauss_sample big", .kind = OP_GAUSS_SAMPLE, .nin = 2, .in = {IN('T', 3, 64, 64, 8), IN('N', 3, 64, 64, 4)},
     .items = 1, .skip_fd = 1},
    {.name = "kl", .kind = OP_KL, .nin = 2, .in = {IN_RANGE('T', -2, 2, 2, 3, 4, 8), IN('C', 2)}, .items = 1},
    {.name = "kl clamped", .kind = OP_KL, .nin = 2, .in = {IN_RANGE('T', -45, 22, 2, 5, 34), IN('C', 2)}, .items = 1, .skip_fd = 1},
    {.name = "kl big", .kind = OP_KL, .nin = 2, .in = {IN('T', 3, 64, 64, 8), IN('C', 3)}, .items = 1, .skip_fd = 1},
};

#endif
