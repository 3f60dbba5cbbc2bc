/* Line plots as images: axes from the data, round tick values, a legend. */
#ifndef IO_PLOT_H
#define IO_PLOT_H

#include "io/image.h"

typedef struct {
    const double *x;
    const float *y;      /* values that are not finite are gaps */
    int64_t n;
    const char *label;   /* NULL: not in the legend */
    double rgb[3];
    double width;        /* of the line in pixels */
    int dots;            /* also a dot at every point */
} IoSeries;

typedef struct {
    int w, h;
    const char *title, *x_label;
    const IoSeries *series;
    int nseries;
    int from_zero;       /* the y axis begins at 0 */
} IoPlot;

/* out: RGB. ERR_RANGE without a single finite point. */
int io_plot_draw(IoImage *out, const IoPlot *p);

#endif
