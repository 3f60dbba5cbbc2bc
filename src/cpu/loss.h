/* Shapes and workspace of the losses, shared by loss.c and the vector code. */
#ifndef CPU_LOSS_H
#define CPU_LOSS_H

#include "cpu/kernel.h"

enum { LOSS_PIECE = 4096 }; /* elements per partial sum */

/* x as [items, count]. */
typedef struct {
    int64_t items, count, pieces;
} LossItems;

static inline LossItems loss_items(const Shape *x)
{
    int64_t n = x->dim[0], all = shape_count(x), count = n ? all / n : 0;
    return (LossItems){n, count, cpu_ceil_div(count, LOSS_PIECE)};
}

/* moments [items, rows, 2 * width]: mean | logvar. piece_rows: rows per partial sum. */
typedef struct {
    int64_t items, rows, width, piece_rows, pieces;
} LossMoments;

static inline LossMoments loss_moments(const Shape *m)
{
    LossMoments g = {m->dim[0], cpu_middle(m), shape_last(m) / 2, 0, 0};
    g.piece_rows = g.width > 0 && g.width < LOSS_PIECE ? LOSS_PIECE / g.width : 1;
    g.pieces = cpu_ceil_div(g.rows, g.piece_rows);
    return g;
}

/* loss_pixel.c */
void cpu_loss_pixel_register(Backend *be);

#endif
