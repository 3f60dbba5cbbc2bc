#include "io/plot.h"

#include <cairo.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LEFT = 66, RIGHT = 16, TOP = 34, BOTTOM = 44, TICKS = 6 };

typedef struct {
    cairo_t *cr;
    const IoPlot *p;
    double x0, x1, y0, y1; /* ranges of the data */
} Frame;

static double px(const Frame *f, double x)
{
    return LEFT + (x - f->x0) / (f->x1 - f->x0) * (f->p->w - LEFT - RIGHT);
}

static double py(const Frame *f, double y)
{
    return f->p->h - BOTTOM - (y - f->y0) / (f->y1 - f->y0) * (f->p->h - TOP - BOTTOM);
}

/* 1, 2 or 5 times a power of ten, for about TICKS parts. */
static double tick(double range)
{
    double raw = range / TICKS, base = pow(10, floor(log10(raw))), m = raw / base;
    return base * (m < 1.5 ? 1 : m < 3.5 ? 2 : m < 7.5 ? 5 : 10);
}

static int ranges(Frame *f)
{
    int any = 0;
    for (int k = 0; k < f->p->nseries; k++) {
        const IoSeries *s = &f->p->series[k];
        for (int64_t i = 0; i < s->n; i++) {
            double y = (double)s->y[i];
            if (!isfinite(y) || !isfinite(s->x[i]))
                continue;
            f->x0 = any ? fmin(f->x0, s->x[i]) : s->x[i];
            f->x1 = any ? fmax(f->x1, s->x[i]) : s->x[i];
            f->y0 = any ? fmin(f->y0, y) : y;
            f->y1 = any ? fmax(f->y1, y) : y;
            any = 1;
        }
    }
    if (!any)
        return err_set(ERR_RANGE, "plot: no finite values");
    if (f->p->from_zero && f->y0 > 0)
        f->y0 = 0;
    if (!(f->x1 > f->x0))
        f->x1 = f->x0 + 1;
    double pad = (f->y1 - f->y0) * 0.05;
    if (!(pad > 0))
        pad = fabs(f->y1) > 0 ? fabs(f->y1) * 0.1 : 1;
    f->y1 += pad;
    f->y0 -= f->p->from_zero && f->y0 >= 0 ? 0 : pad;
    return 0;
}

/* align: 0 left, 0.5 centre, 1 right of x. */
static void text(const Frame *f, double x, double y, double align, const char *s)
{
    cairo_text_extents_t e;
    cairo_text_extents(f->cr, s, &e);
    cairo_move_to(f->cr, x - align * e.x_advance, y);
    cairo_show_text(f->cr, s);
}

static void grid(const Frame *f)
{
    char label[32];
    double sx = tick(f->x1 - f->x0), sy = tick(f->y1 - f->y0);
    cairo_set_line_width(f->cr, 1);
    cairo_set_font_size(f->cr, 11);
    for (double v = ceil(f->y0 / sy) * sy; v <= f->y1 + sy * 1e-9; v += sy) {
        double y = floor(py(f, v)) + 0.5;
        cairo_set_source_rgb(f->cr, 0.88, 0.88, 0.88);
        cairo_move_to(f->cr, LEFT, y);
        cairo_line_to(f->cr, f->p->w - RIGHT, y);
        cairo_stroke(f->cr);
        snprintf(label, sizeof label, "%.4g", fabs(v) < sy * 1e-6 ? 0 : v);
        cairo_set_source_rgb(f->cr, 0.25, 0.25, 0.25);
        text(f, LEFT - 6, y + 4, 1, label);
    }
    for (double v = ceil(f->x0 / sx) * sx; v <= f->x1 + sx * 1e-9; v += sx) {
        double x = floor(px(f, v)) + 0.5;
        cairo_set_source_rgb(f->cr, 0.88, 0.88, 0.88);
        cairo_move_to(f->cr, x, TOP);
        cairo_line_to(f->cr, x, f->p->h - BOTTOM);
        cairo_stroke(f->cr);
        snprintf(label, sizeof label, "%.6g", fabs(v) < sx * 1e-6 ? 0 : v);
        cairo_set_source_rgb(f->cr, 0.25, 0.25, 0.25);
        text(f, x, f->p->h - BOTTOM + 16, 0.5, label);
    }
}

static void curve(const Frame *f, const IoSeries *s)
{
    int down = 0;
    cairo_set_source_rgb(f->cr, s->rgb[0], s->rgb[1], s->rgb[2]);
    cairo_set_line_width(f->cr, s->width);
    for (int64_t i = 0; i < s->n; i++) {
        if (!isfinite((double)s->y[i])) {
            down = 0;
            continue;
        }
        if (down)
            cairo_line_to(f->cr, px(f, s->x[i]), py(f, (double)s->y[i]));
        else
            cairo_move_to(f->cr, px(f, s->x[i]), py(f, (double)s->y[i]));
        down = 1;
    }
    cairo_stroke(f->cr);
    for (int64_t i = 0; s->dots && i < s->n; i++) {
        if (!isfinite((double)s->y[i]))
            continue;
        cairo_arc(f->cr, px(f, s->x[i]), py(f, (double)s->y[i]), 3, 0, 6.2831853);
        cairo_fill(f->cr);
    }
}

static void legend(const Frame *f)
{
    double x = f->p->w - RIGHT;
    for (int k = f->p->nseries - 1; k >= 0; k--) {
        const IoSeries *s = &f->p->series[k];
        cairo_text_extents_t e;
        if (!s->label)
            continue;
        cairo_text_extents(f->cr, s->label, &e);
        cairo_set_source_rgb(f->cr, 0.1, 0.1, 0.1);
        text(f, x, 20, 1, s->label);
        cairo_set_source_rgb(f->cr, s->rgb[0], s->rgb[1], s->rgb[2]);
        cairo_rectangle(f->cr, x - e.x_advance - 16, 12, 11, 8);
        cairo_fill(f->cr);
        x -= e.x_advance + 30;
    }
}

static void draw(const Frame *f)
{
    cairo_set_source_rgb(f->cr, 1, 1, 1);
    cairo_paint(f->cr);
    cairo_select_font_face(f->cr, "DejaVu Sans", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
    grid(f);
    cairo_rectangle(f->cr, LEFT, TOP, f->p->w - LEFT - RIGHT, f->p->h - TOP - BOTTOM);
    cairo_save(f->cr);
    cairo_clip(f->cr);
    for (int k = 0; k < f->p->nseries; k++)
        curve(f, &f->p->series[k]);
    cairo_restore(f->cr);
    legend(f);
    cairo_set_source_rgb(f->cr, 0.1, 0.1, 0.1);
    if (f->p->x_label)
        text(f, LEFT + (f->p->w - LEFT - RIGHT) / 2.0, f->p->h - 10, 0.5, f->p->x_label);
    cairo_set_font_size(f->cr, 14);
    if (f->p->title)
        text(f, LEFT, 21, 0, f->p->title);
}

int io_plot_draw(IoImage *out, const IoPlot *p)
{
    Frame f = {.p = p};
    TRY(ranges(&f));
    cairo_surface_t *surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, p->w, p->h);
    f.cr = cairo_create(surface);
    draw(&f);
    cairo_surface_flush(surface);
    int rc = cairo_status(f.cr) ? err_set(ERR_NOMEM, "plot: %s", cairo_status_to_string(cairo_status(f.cr))) : io_image_init(out, p->w, p->h, 3);
    const uint8_t *data = cairo_image_surface_get_data(surface);
    int stride = cairo_image_surface_get_stride(surface);
    for (int y = 0; rc >= 0 && y < p->h; y++)
        for (int x = 0; x < p->w; x++) {
            uint32_t v;
            memcpy(&v, data + (int64_t)y * stride + 4 * x, sizeof v);
            uint8_t *to = out->data + ((int64_t)y * p->w + x) * 3;
            to[0] = (uint8_t)(v >> 16);
            to[1] = (uint8_t)(v >> 8);
            to[2] = (uint8_t)v;
        }
    cairo_destroy(f.cr);
    cairo_surface_destroy(surface);
    return rc;
}
