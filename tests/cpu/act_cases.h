/* The act family. */
#ifndef TESTS_CPU_ACT_CASES_H
#define TESTS_CPU_ACT_CASES_H

#include "cpu/harness.h"

#define ACT_CASES(nm, a)                                                                                          \
    {.name = nm, .kind = OP_ACT, .attr = {.act = a}, .nin = 1, .in = {IN_RANGE('T', -4, 4, 3, 37)}, .items = 1},   \
    {.name = nm " big", .kind = OP_ACT, .attr = {.act = a}, .nin = 1, .in = {IN_RANGE('T', -9, 9, 2, 40003)},      \
     .items = 1, .skip_fd = 1}

static const Case act_cases[] = {
    ACT_CASES("none", ACT_NONE),
    ACT_CASES("silu", ACT_SILU),
    ACT_CASES("gelu", ACT_GELU),
    ACT_CASES("gelu tanh", ACT_GELU_TANH),
    ACT_CASES("quick gelu", ACT_QUICK_GELU),
    ACT_CASES("sigmoid", ACT_SIGMOID),
    ACT_CASES("tanh", ACT_TANH),
    ACT_CASES("exp", ACT_EXP),
    {.name = "relu", .kind = OP_ACT, .attr = {.act = ACT_RELU}, .nin = 1, .in = {IN('T', 2, 53)}, .items = 1, .skip_fd = 1},
    {.name = "geglu", .kind = OP_GEGLU, .nin = 1, .in = {IN_RANGE('T', -3, 3, 2, 3, 22)}, .items = 1},
    {.name = "geglu one", .kind = OP_GEGLU, .nin = 1, .in = {IN_RANGE('T', -3, 3, 5, 2)}, .items = 1},
    {.name = "geglu bias", .kind = OP_GEGLU, .attr = {.has = OP_HAS_BIAS}, .nin = 2, .in = {IN_RANGE('T', -3, 3, 3, 5, 22), IN('P', 22)}, .items = 1},
    {.name = "geglu bias 320", .kind = OP_GEGLU, .attr = {.has = OP_HAS_BIAS}, .nin = 2, .in = {IN_RANGE('T', -3, 3, 2, 20, 320), IN('P', 320)},
     .items = 1, .skip_fd = 1},
    {.name = "geglu 2560", .kind = OP_GEGLU, .nin = 1, .in = {IN_RANGE('T', -3, 3, 2, 20, 2560)}, .items = 1, .skip_fd = 1},
};

#endif
