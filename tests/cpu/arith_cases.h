/* The arith family. */
#ifndef TESTS_CPU_ARITH_CASES_H
#define TESTS_CPU_ARITH_CASES_H

#include "cpu/harness.h"

#define BCAST(nm, h, items_, fd, ...) \
    {.name = nm, .kind = OP_ADD_BCAST, .attr = {.bcast = h}, .nin = 2, .in = {__VA_ARGS__}, .items = items_, .skip_fd = fd}
#define SUM(nm, h, x, ...)                                                                                      \
    {.name = nm, .kind = OP_SUM_BCAST, .attr = {.bcast = h, .meta = {.shape = DIMS(__VA_ARGS__)}}, .meta_kind = 'P', \
     .nin = 1, .in = {x}, .skip_fd = 1}
#define SUM_IN(...) {'N', DIMS(__VA_ARGS__), -1, 1}
#define COMMA ,

static const Case arith_cases[] = {
    {.name = "add", .kind = OP_ADD, .nin = 2, .in = {IN('T', 2, 37), IN('T', 2, 37)}, .items = 1},
    {.name = "add big", .kind = OP_ADD, .nin = 2, .in = {IN('T', 2, 50001), IN('T', 2, 50001)}, .items = 1, .skip_fd = 1},
    {.name = "mul", .kind = OP_MUL, .nin = 2, .in = {IN('T', 3, 17), IN('T', 3, 17)}, .items = 1},
    {.name = "scale", .kind = OP_SCALE, .attr = {.scale = -1.5f}, .nin = 1, .in = {IN('T', 2, 19)}, .items = 1},
    {.name = "scale by s", .kind = OP_SCALE, .attr = {.scale = -1.5f, .has = OP_HAS_S}, .nin = 2,
     .in = {IN('T', 2, 19), IN('C', 1)}},
    BCAST("add per item", BCAST_ITEM, 1, 0, IN('T', 2, 3, 4, 5), IN('T', 2, 5)),
    BCAST("add per item, P", BCAST_ITEM, 1, 1, IN('T', 2, 300, 9), IN('P', 2, 9)),
    BCAST("add per item 320", BCAST_ITEM, 1, 1, IN('T', 2, 333, 320), IN('T', 2, 320)),
    BCAST("add per row", BCAST_ROW, 0, 0, IN('T', 3, 7, 5), IN('P', 7, 5)),
    BCAST("add per row, image", BCAST_ROW, 0, 1, IN('T', 3, 31, 9, 20), IN('T', 31, 9, 20)),
    BCAST("add per channel", BCAST_CHANNEL, 0, 0, IN('T', 3, 7, 5), IN('P', 5)),
    BCAST("add per channel 640", BCAST_CHANNEL, 0, 1, IN('T', 2, 190, 640), IN('P', 640)),
    BCAST("add per channel of a matrix", BCAST_CHANNEL, 0, 0, IN('T', 3, 5), IN('T', 5)),
    {.name = "concat", .kind = OP_CONCAT, .nin = 2, .in = {IN('T', 2, 3, 5), IN('T', 2, 3, 4)}, .items = 1},
    {.name = "concat big", .kind = OP_CONCAT, .nin = 2, .in = {IN('T', 2, 100, 320), IN('T', 2, 100, 641)}, .items = 1,
     .skip_fd = 1},
    {.name = "slice", .kind = OP_SLICE, .attr = {.begin = 2, .count = 3}, .nin = 1, .in = {IN('T', 2, 4, 7)}, .items = 1},
    {.name = "slice first", .kind = OP_SLICE, .attr = {.begin = 0, .count = 1}, .nin = 1, .in = {IN('T', 5, 3)}, .items = 1},
    {.name = "slice all", .kind = OP_SLICE, .attr = {.begin = 0, .count = 3}, .nin = 1, .in = {IN('T', 5, 3)}, .items = 1},
    {.name = "to nhwc", .kind = OP_NCHW_TO_NHWC, .nin = 1, .in = {IN('T', 2, 3, 5, 7)}, .items = 1},
    {.name = "to nhwc big", .kind = OP_NCHW_TO_NHWC, .nin = 1, .in = {IN('T', 2, 70, 33, 20)}, .items = 1, .skip_fd = 1},
    {.name = "to nchw", .kind = OP_NHWC_TO_NCHW, .nin = 1, .in = {IN('T', 2, 3, 5, 7)}, .items = 1},
    {.name = "to f32", .kind = OP_CAST, .attr = {.meta = {.dtype = DTYPE_F32}}, .nin = 1, .in = {IN('N', 3, 41)}, .items = 1,
     .skip_fd = 1},
    {.name = "to bf16", .kind = OP_CAST, .attr = {.meta = {.dtype = DTYPE_BF16}}, .nin = 1, .in = {IN('N', 3, 41)},
     .items = 1, .tol = 4e-3, .skip_fd = 1},
    {.name = "to f16", .kind = OP_CAST, .attr = {.meta = {.dtype = DTYPE_F16}}, .nin = 1, .in = {IN('N', 3, 41)}, .items = 1,
     .tol = 1e-3, .skip_fd = 1},
    {.name = "to f64", .kind = OP_CAST, .attr = {.meta = {.dtype = DTYPE_F64}}, .cpu_only = 1, .nin = 1, .in = {IN('N', 3, 41)}, .items = 1,
     .skip_fd = 1},
};

#endif
