/* The embed family. */
#ifndef TESTS_CPU_EMBED_CASES_H
#define TESTS_CPU_EMBED_CASES_H

#include "cpu/harness.h"

#define TIME(nm, f, sh, n, dim)                                                                                      \
    {.name = nm, .kind = OP_TIME_EMBED, .attr = {.flip = f, .shift = sh, .max_period = 10000, .count = dim},         \
     .meta_kind = 'T', .nin = 1, .in = {IN_RANGE('F', 0, 999, n)}, .items = 1, .tol = 2e-4, .skip_fd = 1}

static const Case embed_cases[] = {
    {.name = "embed", .kind = OP_EMBED, .nin = 2, .in = {IN_RANGE('I', 0, 6, 2, 4), IN('T', 6, 5)}, .items = 1},
    {.name = "embed 768", .kind = OP_EMBED, .nin = 2, .in = {IN_RANGE('I', 0, 90, 2, 77), IN('T', 90, 768)}, .items = 1,
     .skip_fd = 1},
    {.name = "gather_row", .kind = OP_GATHER_ROW, .nin = 2, .in = {IN('T', 3, 5, 7), IN_RANGE('I', 0, 5, 3)}, .items = 1},
    TIME("time_embed", 0, 1.0f, 3, 10),
    TIME("time_embed flipped", 1, 0.0f, 2, 320),
};

#endif
