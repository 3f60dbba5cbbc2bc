/* How broadcast ops see their tensors; shared by the double and the vector code. */
#ifndef CPU_ARITH_H
#define CPU_ARITH_H

#include "cpu/kernel.h"

/* x as [items, middle, channels]. */
typedef struct {
    int64_t items, middle, channels;
    int how; /* Bcast */
} ArithBcast;

static inline ArithBcast arith_bcast(const Shape *x, int how)
{
    int64_t ch = shape_last(x), items = x->ndim > 1 ? x->dim[0] : 1;
    return (ArithBcast){items, cpu_middle(x), ch, how};
}

/* Row of v that row r of x gets. */
static inline int64_t arith_bcast_row(const ArithBcast *g, int64_t r)
{
    return g->how == BCAST_ITEM ? r / g->middle : g->how == BCAST_ROW ? r % g->middle : 0;
}

/* The sum of x[items, rows, channels] over rows (over items for BCAST_ROW). chunks: of rows; blocks: of 64 channels. */
typedef struct {
    int64_t items, rows, channels, chunks, blocks;
} ArithSum;

static inline ArithSum arith_sum(const Shape *x, int how)
{
    ArithBcast g = arith_bcast(x, how);
    ArithSum s = {g.items, g.middle, g.channels, 0, cpu_ceil_div(g.channels, 64)};
    if (how == BCAST_CHANNEL) {
        s.rows *= s.items;
        s.items = 1;
    }
    s.chunks = cpu_chunks(s.rows, s.channels);
    return s;
}

/* The ops that only move elements (move.c). */
void cpu_move_register(Backend *be);

#endif
