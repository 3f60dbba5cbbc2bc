/* The adapter family. */
#ifndef TESTS_CPU_ADAPTER_CASES_H
#define TESTS_CPU_ADAPTER_CASES_H

#include "cpu/harness.h"

static const Case adapter_cases[] = {
    {.name = "mul per item", .kind = OP_MUL_BCAST, .attr = {.bcast = BCAST_ITEM}, .nin = 2,
     .in = {IN('T', 2, 3, 4, 5), IN('T', 2, 5)}, .items = 1},
    {.name = "mul per item, P", .kind = OP_MUL_BCAST, .attr = {.bcast = BCAST_ITEM}, .nin = 2,
     .in = {IN('T', 2, 300, 9), IN('P', 2, 9)}, .items = 1, .skip_fd = 1},
    {.name = "mul per channel", .kind = OP_MUL_BCAST, .attr = {.bcast = BCAST_CHANNEL}, .nin = 2,
     .in = {IN('T', 3, 7, 5), IN('P', 5)}},
    {.name = "mul per channel 640", .kind = OP_MUL_BCAST, .attr = {.bcast = BCAST_CHANNEL}, .nin = 2,
     .in = {IN('T', 2, 90, 640), IN('P', 640)}, .skip_fd = 1},
    {.name = "row gain", .kind = OP_ROW_GAIN, .nin = 2, .in = {IN('P', 5), IN('P', 5, 7)}, .skip_fd = 1},
    {.name = "row gain of kernels", .kind = OP_ROW_GAIN, .nin = 2, .in = {IN('P', 3), IN('P', 3, 40, 3, 3)}, .skip_fd = 1},
    {.name = "dropout", .kind = OP_DROPOUT, .attr = {.scale = 0.4f, .bcast = DROP_ELEMENT, .begin = 11, .count = 12}, .nin = 2,
     .in = {IN('T', 3, 5, 7), IN_RANGE('J', -40, 1e12, 3)}, .items = 1, .skip_fd = 1},
    {.name = "dropout of channels", .kind = OP_DROPOUT, .attr = {.scale = 0.4f, .bcast = DROP_CHANNEL, .begin = 11, .count = -12}, .nin = 2,
     .in = {IN('T', 3, 5, 90), IN_RANGE('J', 0, 1000, 3)}, .items = 1, .skip_fd = 1},
    {.name = "dropout of items", .kind = OP_DROPOUT, .attr = {.scale = 0.6f, .bcast = DROP_ITEM, .begin = 5, .count = 1}, .nin = 2,
     .in = {IN('T', 6, 3, 2, 3), IN_RANGE('J', -9, 9, 6)}, .items = 1, .skip_fd = 1},
};

#endif
