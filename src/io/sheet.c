#include <stdlib.h>
#include <string.h>

#include "io/font.h"
#include "io/image.h"

enum { MARGIN = 10, GAP = 6, PAD = 3, LABEL_LINES = 4, ROW_LABEL_W = 22 * FONT_W, TITLE_LINES = 4 };

static const uint8_t ink[3] = {32, 32, 32};
enum { PAPER = 248 };

/* Pixel positions of a sheet. */
typedef struct {
    int cell_w, cell_h, tile_label_h; /* a cell is the tile's box; its label comes below */
    int left, top, title_h, col_h;
    int64_t w, h;
} Layout;

static int label_height(const char *const *label, int n, int width, int max_lines)
{
    int most = 0;
    for (int i = 0; label && i < n; i++) {
        int lines = label[i] ? io_image_text_lines(width, max_lines, label[i]) : 0;
        most = lines > most ? lines : most;
    }
    return most ? most * FONT_H + PAD : 0;
}

static int has_any(const char *const *label, int n)
{
    for (int i = 0; label && i < n; i++)
        if (label[i] && *label[i])
            return 1;
    return 0;
}

static int lay_out(Layout *l, const IoSheet *s)
{
    *l = (Layout){.cell_w = s->cell_w, .cell_h = s->cell_h};
    if (s->rows < 1 || s->cols < 1 || (int64_t)s->rows * s->cols > 1000000)
        return err_set(ERR_RANGE, "contact sheet of %d x %d tiles", s->cols, s->rows);
    for (int i = 0; i < s->rows * s->cols; i++) {
        if (!s->tile[i].data)
            continue;
        if (!s->cell_w && s->tile[i].w > l->cell_w)
            l->cell_w = s->tile[i].w;
        if (!s->cell_h && s->tile[i].h > l->cell_h)
            l->cell_h = s->tile[i].h;
    }
    l->cell_w = l->cell_w < 1 ? 64 : l->cell_w;
    l->cell_h = l->cell_h < 1 ? 64 : l->cell_h;
    if (l->cell_w > IO_IMAGE_MAX_SIDE || l->cell_h > IO_IMAGE_MAX_SIDE)
        return err_set(ERR_RANGE, "contact sheet with cells of %d x %d", l->cell_w, l->cell_h);
    l->tile_label_h = label_height(s->tile_label, s->rows * s->cols, l->cell_w, LABEL_LINES);
    l->col_h = label_height(s->col_label, s->cols, l->cell_w, LABEL_LINES);
    l->left = MARGIN + (has_any(s->row_label, s->rows) ? ROW_LABEL_W + GAP : 0);
    l->w = l->left + (int64_t)s->cols * (l->cell_w + GAP) - GAP + MARGIN;
    int title_w = (int)(l->w - 2 * MARGIN);
    l->title_h = s->title && *s->title ? io_image_text_lines(title_w, TITLE_LINES, s->title) * FONT_H + GAP : 0;
    l->top = MARGIN + l->title_h + l->col_h;
    l->h = l->top + (int64_t)s->rows * (l->cell_h + l->tile_label_h + GAP) - GAP + MARGIN;
    if (l->w > IO_IMAGE_MAX_SIDE || l->h > IO_IMAGE_MAX_SIDE || l->w * l->h > IO_IMAGE_MAX_PIXELS)
        return err_set(ERR_RANGE, "contact sheet of %lld x %lld pixels is too large: set a smaller cell size", (long long)l->w,
                       (long long)l->h);
    return 0;
}

/* The tile at the size it is shown: shrunk to fit, or enlarged by whole pixels. */
static int fit_tile(IoImage *out, const IoImage *tile, int w, int h)
{
    int up = w / tile->w < h / tile->h ? w / tile->w : h / tile->h;
    if (up >= 1)
        return io_image_resize(out, tile, tile->w * up, tile->h * up, IO_FILTER_NEAREST);
    int tw = w, th = (int)((int64_t)tile->h * w / tile->w);
    if (th > h) {
        th = h;
        tw = (int)((int64_t)tile->w * h / tile->h);
    }
    return io_image_resize(out, tile, tw < 1 ? 1 : tw, th < 1 ? 1 : th, IO_FILTER_LANCZOS);
}

static int paste_tile(IoImage *sheet, const IoImage *tile, int x, int y, int w, int h)
{
    IoImage t = {0};
    TRY(fit_tile(&t, tile, w, h));
    int rc = io_image_to_rgb(&t, PAPER, PAPER, PAPER);
    x += (w - t.w) / 2;
    y += (h - t.h) / 2;
    for (int r = 0; rc == 0 && r < t.h; r++)
        memcpy(sheet->data + 3 * ((size_t)(y + r) * (size_t)sheet->w + (size_t)x), t.data + 3 * (size_t)r * (size_t)t.w,
               3 * (size_t)t.w);
    io_image_deinit(&t);
    return rc;
}

static int draw_row(IoImage *out, const IoSheet *s, const Layout *l, int r)
{
    int y = l->top + r * (l->cell_h + l->tile_label_h + GAP);
    if (s->row_label && s->row_label[r])
        io_image_text(out, MARGIN, y, ROW_LABEL_W, l->cell_h / FONT_H > 1 ? l->cell_h / FONT_H : 1, s->row_label[r], ink);
    for (int c = 0; c < s->cols; c++) {
        int i = r * s->cols + c, x = l->left + c * (l->cell_w + GAP);
        if (s->tile[i].data)
            TRY(paste_tile(out, &s->tile[i], x, y, l->cell_w, l->cell_h));
        if (s->tile_label && s->tile_label[i])
            io_image_text(out, x, y + l->cell_h + PAD, l->cell_w, LABEL_LINES, s->tile_label[i], ink);
    }
    return 0;
}

int io_sheet_build(IoImage *out, const IoSheet *s)
{
    Layout l;
    int rc = 0;
    *out = (IoImage){0};
    TRY(lay_out(&l, s));
    TRY(io_image_init(out, (int)l.w, (int)l.h, 3));
    memset(out->data, PAPER, 3 * (size_t)l.w * (size_t)l.h);
    if (l.title_h)
        io_image_text(out, MARGIN, MARGIN, out->w - 2 * MARGIN, TITLE_LINES, s->title, ink);
    for (int c = 0; s->col_label && c < s->cols; c++)
        if (s->col_label[c])
            io_image_text(out, l.left + c * (l.cell_w + GAP), MARGIN + l.title_h, l.cell_w, LABEL_LINES, s->col_label[c], ink);
    for (int r = 0; r < s->rows && rc == 0; r++)
        rc = draw_row(out, s, &l, r);
    if (rc < 0)
        io_image_deinit(out);
    return rc;
}
