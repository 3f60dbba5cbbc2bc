/* Shapes and workspace of the norms, shared by norm.c and the vector code. */
#ifndef CPU_NORM_H
#define CPU_NORM_H

#include "cpu/kernel.h"

/* x[items, rows, channels], groups of `width` channels; rows are cut into `chunks` by the channel count alone. */
typedef struct {
    int64_t items, rows, channels, groups, width, chunks, chunk_rows;
} NormGroup;

static inline NormGroup norm_group(const Shape *x, int32_t groups)
{
    NormGroup g = {x->dim[0], cpu_middle(x), shape_last(x), groups, 0, 0, 0};
    g.width = g.channels / (groups > 0 ? groups : 1);
    g.chunk_rows = cpu_chunk_rows(g.channels);
    g.chunks = cpu_chunks(g.rows, g.channels);
    return g;
}

/* Workspace of both directions: two floats per chunk and channel, two doubles and four floats per item and channel. */
static inline size_t norm_group_scratch(const NormGroup *g)
{
    return (size_t)(g->items * g->channels) * ((size_t)g->chunks * 2 * sizeof(float) + 2 * sizeof(double) + 4 * sizeof(float));
}

#endif
