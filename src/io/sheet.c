#include <cairo-pdf.h>
#include <pango/pangocairo.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "io/image.h"

enum { MARGIN = 10, GAP = 6, PAD = 3, LABEL_LINES = 4, TITLE_LINES = 4, ROW_LABEL_MAX = 160, TEXT_SIZE = 11, TITLE_SIZE = 14, PAGE_MAX = 14400 };

static const double ink = 32 / 255.0;
enum { PAPER = 248 };

/* Pixel positions of a sheet. */
typedef struct {
    const IoSheet *s;
    PangoLayout *text;
    int cell_w, cell_h, tile_label_h; /* a cell is the tile's box; its label comes below */
    int left, top, title_h, col_h, row_w;
    int64_t w, h;
} Sheet;

/* ---- text ---- */

static int text_open(PangoLayout **out)
{
    PangoContext *ctx = pango_font_map_create_context(pango_cairo_font_map_get_default());
    cairo_font_options_t *o = cairo_font_options_create();
    cairo_font_options_set_antialias(o, CAIRO_ANTIALIAS_GRAY);
    cairo_font_options_set_hint_style(o, CAIRO_HINT_STYLE_NONE);
    cairo_font_options_set_hint_metrics(o, CAIRO_HINT_METRICS_OFF);
    pango_cairo_context_set_font_options(ctx, o);
    pango_cairo_context_set_resolution(ctx, 96);
    cairo_font_options_destroy(o);
    *out = pango_layout_new(ctx);
    g_object_unref(ctx);
    pango_layout_set_wrap(*out, PANGO_WRAP_WORD_CHAR);
    pango_layout_set_ellipsize(*out, PANGO_ELLIPSIZE_END);
    return 0;
}

/* One paragraph of good UTF-8, or Pango complains on stderr. */
static int clean_text(char **out, const char *text)
{
    TRY(str_copy(out, text));
    int good = str_is_utf8(text, strlen(text));
    for (char *p = *out; *p; p++)
        if ((unsigned char)*p < 32 || (!good && (unsigned char)*p > 126))
            *p = (unsigned char)*p < 32 ? ' ' : '?';
    return 0;
}

/* Sets the layout; *h: height in pixels, *w: width, both rounded up. */
static int text_set(PangoLayout *l, const char *text, int width, int lines, int size, int *w, int *h)
{
    char *clean;
    TRY(clean_text(&clean, text));
    PangoFontDescription *d = pango_font_description_from_string("DejaVu Sans");
    pango_font_description_set_absolute_size(d, (double)size * PANGO_SCALE);
    pango_layout_set_font_description(l, d);
    pango_font_description_free(d);
    pango_layout_set_width(l, width > 0 ? width * PANGO_SCALE : 1);
    pango_layout_set_height(l, -lines);
    pango_layout_set_text(l, clean, -1);
    free(clean);
    int pw, ph;
    pango_layout_get_size(l, &pw, &ph);
    if (w)
        *w = (pw + PANGO_SCALE - 1) / PANGO_SCALE;
    *h = (ph + PANGO_SCALE - 1) / PANGO_SCALE;
    return 0;
}

static int text_draw(cairo_t *cr, const Sheet *s, const char *text, int x, int y, int width, int lines, int size)
{
    int h;
    TRY(text_set(s->text, text, width, lines, size, NULL, &h));
    cairo_set_source_rgb(cr, ink, ink, ink);
    cairo_move_to(cr, x, y);
    pango_cairo_update_layout(cr, s->text);
    pango_cairo_show_layout(cr, s->text);
    return 0;
}

static int tallest(const Sheet *s, const char *const *label, int n, int width, int *h)
{
    *h = 0;
    for (int i = 0; label && i < n; i++) {
        int one;
        if (!label[i] || !label[i][0])
            continue;
        TRY(text_set(s->text, label[i], width, LABEL_LINES, TEXT_SIZE, NULL, &one));
        *h = one + PAD > *h ? one + PAD : *h;
    }
    return 0;
}

static int widest(const Sheet *s, int *w)
{
    *w = 0;
    for (int i = 0; s->s->row_label && i < s->s->rows; i++) {
        int one, h;
        if (!s->s->row_label[i] || !s->s->row_label[i][0])
            continue;
        TRY(text_set(s->text, s->s->row_label[i], ROW_LABEL_MAX, 100, TEXT_SIZE, &one, &h));
        *w = one > *w ? one : *w;
    }
    return 0;
}

/* ---- positions ---- */

static void cell_size(Sheet *l, const IoSheet *s)
{
    l->cell_w = s->cell_w;
    l->cell_h = s->cell_h;
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
}

static int sheet_open(Sheet *l, const IoSheet *s)
{
    memset(l, 0, sizeof *l);
    l->s = s;
    if (s->rows < 1 || s->cols < 1 || (int64_t)s->rows * s->cols > 1000000)
        return err_set(ERR_RANGE, "contact sheet of %d x %d tiles", s->cols, s->rows);
    cell_size(l, s);
    if (l->cell_w > IO_IMAGE_MAX_SIDE || l->cell_h > IO_IMAGE_MAX_SIDE)
        return err_set(ERR_RANGE, "contact sheet with cells of %d x %d", l->cell_w, l->cell_h);
    TRY(text_open(&l->text));
    TRY(tallest(l, s->tile_label, s->rows * s->cols, l->cell_w, &l->tile_label_h));
    TRY(tallest(l, s->col_label, s->cols, l->cell_w, &l->col_h));
    TRY(widest(l, &l->row_w));
    l->left = MARGIN + (l->row_w ? l->row_w + GAP : 0);
    l->w = l->left + (int64_t)s->cols * (l->cell_w + GAP) - GAP + MARGIN;
    if (s->title && *s->title) {
        TRY(text_set(l->text, s->title, (int)l->w - 2 * MARGIN, TITLE_LINES, TITLE_SIZE, NULL, &l->title_h));
        l->title_h += GAP;
    }
    l->top = MARGIN + l->title_h + l->col_h;
    l->h = l->top + (int64_t)s->rows * (l->cell_h + l->tile_label_h + GAP) - GAP + MARGIN;
    if (l->w > IO_IMAGE_MAX_SIDE || l->h > IO_IMAGE_MAX_SIDE || l->w * l->h > IO_IMAGE_MAX_PIXELS)
        return err_set(ERR_RANGE, "contact sheet of %lld x %lld pixels is too large: set a smaller cell size", (long long)l->w,
                       (long long)l->h);
    return 0;
}

static void sheet_close(Sheet *l)
{
    if (l->text)
        g_object_unref(l->text);
}

static int draw_texts(cairo_t *cr, const Sheet *l)
{
    const IoSheet *s = l->s;
    if (l->title_h)
        TRY(text_draw(cr, l, s->title, MARGIN, MARGIN, (int)l->w - 2 * MARGIN, TITLE_LINES, TITLE_SIZE));
    for (int c = 0; s->col_label && c < s->cols; c++)
        if (s->col_label[c])
            TRY(text_draw(cr, l, s->col_label[c], l->left + c * (l->cell_w + GAP), MARGIN + l->title_h, l->cell_w, LABEL_LINES, TEXT_SIZE));
    for (int r = 0; r < s->rows; r++) {
        int y = l->top + r * (l->cell_h + l->tile_label_h + GAP), lines = l->cell_h / (TEXT_SIZE + 3);
        if (s->row_label && s->row_label[r])
            TRY(text_draw(cr, l, s->row_label[r], MARGIN, y, l->row_w, lines > 1 ? lines : 1, TEXT_SIZE));
        for (int c = 0; s->tile_label && c < s->cols; c++)
            if (s->tile_label[r * s->cols + c])
                TRY(text_draw(cr, l, s->tile_label[r * s->cols + c], l->left + c * (l->cell_w + GAP), y + l->cell_h + PAD, l->cell_w,
                              LABEL_LINES, TEXT_SIZE));
    }
    return 0;
}

/* ---- tiles ---- */

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

/* Cairo's 0x00RRGGBB words and back. */
static void put_row(uint32_t *to, const uint8_t *rgb, int n)
{
    for (int i = 0; i < n; i++)
        to[i] = (uint32_t)rgb[3 * i] << 16 | (uint32_t)rgb[3 * i + 1] << 8 | rgb[3 * i + 2];
}

static int surface_of(cairo_surface_t **out, const IoImage *rgb)
{
    *out = cairo_image_surface_create(CAIRO_FORMAT_RGB24, rgb->w, rgb->h);
    if (cairo_surface_status(*out) != CAIRO_STATUS_SUCCESS)
        return err_set(ERR_NOMEM, "out of memory: contact sheet");
    cairo_surface_flush(*out);
    uint8_t *d = cairo_image_surface_get_data(*out);
    int stride = cairo_image_surface_get_stride(*out);
    for (int y = 0; y < rgb->h; y++)
        put_row((uint32_t *)(void *)(d + (size_t)y * (size_t)stride), rgb->data + 3 * (size_t)y * (size_t)rgb->w, rgb->w);
    cairo_surface_mark_dirty(*out);
    return 0;
}

/* On pixels: `tile` as it is. On a page: scaled into the cell by the viewer, in its own resolution. */
static int draw_tile(cairo_t *cr, const IoImage *tile, int x, int y, const Sheet *l, int page)
{
    IoImage t = {0};
    cairo_surface_t *surface = NULL;
    int rc;
    TRY_GOTO(page ? io_image_copy(&t, tile) : fit_tile(&t, tile, l->cell_w, l->cell_h));
    TRY_GOTO(io_image_to_rgb(&t, PAPER, PAPER, PAPER));
    TRY_GOTO(surface_of(&surface, &t));
    double sx = (double)l->cell_w / t.w, sy = (double)l->cell_h / t.h, scale = !page ? 1 : sx < sy ? sx : sy;
    double dx = x + (l->cell_w - t.w * scale) / 2, dy = y + (l->cell_h - t.h * scale) / 2;
    cairo_save(cr);
    cairo_translate(cr, page ? dx : (int)dx, page ? dy : (int)dy);
    cairo_scale(cr, scale, scale);
    cairo_set_source_surface(cr, surface, 0, 0);
    cairo_pattern_set_filter(cairo_get_source(cr), CAIRO_FILTER_NEAREST);
    cairo_paint(cr);
    cairo_restore(cr);
done:
    if (surface)
        cairo_surface_destroy(surface);
    io_image_deinit(&t);
    return rc;
}

static int draw(cairo_surface_t *surface, const Sheet *l, int page)
{
    const IoSheet *s = l->s;
    cairo_t *cr = cairo_create(surface);
    int rc = 0;
    cairo_set_source_rgb(cr, PAPER / 255.0, PAPER / 255.0, PAPER / 255.0);
    cairo_paint(cr);
    for (int i = 0; i < s->rows * s->cols && rc >= 0; i++)
        if (s->tile[i].data)
            rc = draw_tile(cr, &s->tile[i], l->left + i % s->cols * (l->cell_w + GAP),
                           l->top + i / s->cols * (l->cell_h + l->tile_label_h + GAP), l, page);
    if (rc >= 0)
        rc = draw_texts(cr, l);
    if (rc >= 0 && cairo_status(cr) != CAIRO_STATUS_SUCCESS)
        rc = err_set(ERR_NOMEM, "contact sheet: %s", cairo_status_to_string(cairo_status(cr)));
    cairo_destroy(cr);
    return rc;
}

static int take_pixels(IoImage *out, cairo_surface_t *surface)
{
    TRY(io_image_init(out, cairo_image_surface_get_width(surface), cairo_image_surface_get_height(surface), 3));
    cairo_surface_flush(surface);
    const uint8_t *d = cairo_image_surface_get_data(surface);
    int stride = cairo_image_surface_get_stride(surface);
    uint8_t *to = out->data;
    for (int y = 0; y < out->h; y++) {
        const uint32_t *row = (const uint32_t *)(const void *)(d + (size_t)y * (size_t)stride);
        for (int x = 0; x < out->w; x++, to += 3) {
            to[0] = (uint8_t)(row[x] >> 16);
            to[1] = (uint8_t)(row[x] >> 8);
            to[2] = (uint8_t)row[x];
        }
    }
    return 0;
}

int io_sheet_build(IoImage *out, const IoSheet *s)
{
    Sheet l;
    cairo_surface_t *surface = NULL;
    int rc;
    *out = (IoImage){0};
    TRY_GOTO(sheet_open(&l, s));
    surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, (int)l.w, (int)l.h);
    TRY_GOTO(draw(surface, &l, 0));
    rc = take_pixels(out, surface);
done:
    if (surface)
        cairo_surface_destroy(surface);
    sheet_close(&l);
    return rc;
}

static cairo_status_t collect(void *ctx, const unsigned char *data, unsigned n)
{
    str_add_bytes(ctx, data, n);
    return str_status(ctx) < 0 ? CAIRO_STATUS_NO_MEMORY : CAIRO_STATUS_SUCCESS;
}

int io_sheet_pdf(uint8_t **data, size_t *size, const IoSheet *s)
{
    Sheet l;
    cairo_surface_t *surface = NULL;
    StrBuf b;
    int rc;
    *data = NULL;
    *size = 0;
    str_init(&b);
    TRY_GOTO(sheet_open(&l, s));
    if (l.w > PAGE_MAX || l.h > PAGE_MAX) {
        rc = err_set(ERR_RANGE, "PDF page of %lld x %lld points: at most %d; set a smaller cell size", (long long)l.w, (long long)l.h, PAGE_MAX);
        goto done;
    }
    surface = cairo_pdf_surface_create_for_stream(collect, &b, (double)l.w, (double)l.h);
    cairo_pdf_surface_set_metadata(surface, CAIRO_PDF_METADATA_CREATE_DATE, "2000-01-01T00:00:00"); /* equal sheets, equal files */
    if (s->title && str_is_utf8(s->title, strlen(s->title)))
        cairo_pdf_surface_set_metadata(surface, CAIRO_PDF_METADATA_TITLE, s->title);
    TRY_GOTO(draw(surface, &l, 1));
    cairo_surface_finish(surface);
    *size = b.len;
    char *text = NULL;
    rc = str_take(&text, &b);
    *data = (uint8_t *)text;
done:
    if (surface)
        cairo_surface_destroy(surface);
    str_deinit(&b);
    sheet_close(&l);
    return rc;
}
