/* The attention family. */
#ifndef TESTS_CPU_ATTENTION_CASES_H
#define TESTS_CPU_ATTENTION_CASES_H

#include "cpu/harness.h"

#define ATT(nm, h, sc, cs, n, lq, lk, c, fd)                                                                    \
    {.name = nm, .kind = OP_ATTENTION, .attr = {.heads = h, .scale = sc, .causal = cs}, .nin = 3,                \
     .in = {IN('T', n, lq, c), IN('T', n, lk, c), IN('T', n, lk, c)}, .items = 1, .tol_bf = 3e-2, .skip_fd = fd}

static const Case attention_cases[] = {
    ATT("one of one", 1, 1.0f, 0, 1, 1, 1, 1, 0),
    ATT("small", 2, 0.5f, 0, 2, 3, 5, 6, 0),
    ATT("causal", 3, 0.7f, 1, 2, 7, 7, 12, 0),
    ATT("causal, more keys", 1, 0.7f, 1, 1, 4, 9, 5, 0),
    ATT("causal, more queries", 1, 0.7f, 1, 1, 9, 4, 5, 0),
    ATT("causal 77 of 64", 2, 0.125f, 1, 2, 77, 77, 128, 1),
    ATT("causal 200", 1, 0.3f, 1, 1, 200, 200, 22, 1),
    ATT("33 queries, 101 keys", 2, 0.2f, 0, 2, 33, 101, 48, 1),
    ATT("cross 77, 40 wide", 4, 0.158f, 0, 2, 130, 77, 160, 1),
    ATT("self 256, 32 wide", 2, 0.177f, 0, 2, 256, 256, 64, 1),
    ATT("self 65, 80 wide", 2, 0.11f, 0, 1, 65, 65, 160, 1),
    ATT("160 wide", 1, 0.079f, 0, 1, 70, 129, 160, 1),
    ATT("512 wide", 1, 0.044f, 0, 1, 36, 67, 512, 1),
    ATT("groups of blocks", 1, 0.3f, 0, 1, 1030, 99, 12, 1),
    ATT("groups of blocks, causal", 2, 0.3f, 1, 1, 1040, 110, 8, 1),
    ATT("several spans of keys", 1, 0.05f, 0, 2, 35, 420, 352, 1),
    /* The first query sees one key: its dq is 0 but for rounding. */
    {.name = "causal, several spans", .kind = OP_ATTENTION, .attr = {.heads = 1, .scale = 0.05f, .causal = 1}, .nin = 3,
     .in = {IN('T', 1, 250, 352), IN('T', 1, 250, 352), IN('T', 1, 250, 352)}, .tol = 1e-4, .tol_bf = 6e-2, .skip_fd = 1},
    ATT("17 wide", 3, 0.25f, 0, 1, 33, 191, 51, 1),
};

#endif
