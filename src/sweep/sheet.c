#include "sweep/sheet.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/png.h"

enum { SHEET_MAX_CELLS = 20000, SHEET_PIXELS = 24 * 1024 * 1024 };

/* Which axes go where. */
typedef struct {
    int row[SWEEP_MAX_AXES], nrow, col[SWEEP_MAX_AXES], ncol;
    int64_t fixed[SWEEP_MAX_AXES];
    int64_t rows, cols;
} Layout;

static int take_axes(const SweepGrid *g, const ConfStrs *names, const char *what, int *axis, int *n, int64_t *product, unsigned *used)
{
    *n = 0;
    *product = 1;
    for (int i = 0; i < names->count; i++) {
        int a = sweep_grid_axis(g, names->items[i]);
        if (a < 0)
            return err_set(ERR_NOTFOUND, "sheet.%s: there is no axis '%s'", what, names->items[i]);
        if (*used & 1u << a)
            return err_set(ERR_FORMAT, "sheet: axis '%s' is named twice", names->items[i]);
        *used |= 1u << a;
        axis[(*n)++] = a;
        *product *= g->axis[a].count;
    }
    return 0;
}

static int fixed_axes(const SweepGrid *g, const ConfNode *where, unsigned used, int64_t fixed[SWEEP_MAX_AXES])
{
    memset(fixed, 0, SWEEP_MAX_AXES * sizeof *fixed);
    if (!where)
        return 0;
    if (where->kind != CONF_NODE_MAP)
        return conf_node_error(where, ERR_FORMAT, "sheet.where", "expected a map: axis name -> place");
    for (int i = 0; i < where->count; i++) {
        int a = sweep_grid_axis(g, where->keys[i]);
        if (a < 0)
            return conf_node_error(where->items[i], ERR_NOTFOUND, "sheet.where", "there is no axis '%s'", where->keys[i]);
        if (used & 1u << a)
            return conf_node_error(where->items[i], ERR_FORMAT, "sheet.where", "axis '%s' is among rows or columns", where->keys[i]);
        TRY(conf_node_i64(where->items[i], "sheet.where", &fixed[a]));
        if (fixed[a] < 0 || fixed[a] >= g->axis[a].count)
            return conf_node_error(where->items[i], ERR_RANGE, "sheet.where", "axis '%s' has places 0..%lld", where->keys[i],
                                   (long long)g->axis[a].count - 1);
    }
    return 0;
}

static int layout_make(Layout *l, const SweepGrid *g, const SweepSheet *conf)
{
    unsigned used = 0;
    TRY(take_axes(g, &conf->rows, "rows", l->row, &l->nrow, &l->rows, &used));
    TRY(take_axes(g, &conf->columns, "columns", l->col, &l->ncol, &l->cols, &used));
    if (!l->nrow && !l->ncol)
        for (int i = 0; i < g->naxes; i++) {
            if (i == g->naxes - 1) {
                l->col[l->ncol++] = i;
                l->cols *= g->axis[i].count;
            } else {
                l->row[l->nrow++] = i;
                l->rows *= g->axis[i].count;
            }
            used |= 1u << i;
        }
    TRY(fixed_axes(g, conf->where, used, l->fixed));
    if (conf->rows.count || conf->columns.count)
        return l->rows * l->cols <= SHEET_MAX_CELLS ? 0 : err_set(ERR_RANGE, "sheet: %lld pictures: at most %d", (long long)(l->rows * l->cols), SHEET_MAX_CELLS);
    while (l->rows * l->cols > SHEET_MAX_CELLS && l->nrow) /* nobody asked for all of it: leave axes out */
        l->rows /= g->axis[l->row[--l->nrow]].count;
    while (l->rows * l->cols > SHEET_MAX_CELLS)
        l->cols = SHEET_MAX_CELLS;
    return 0;
}

int sweep_sheet_check(const SweepGrid *g, const SweepSheet *conf)
{
    Layout l;
    return layout_make(&l, g, conf);
}

/* Places of the i-th combination of these axes, the last one fastest. */
static void set_places(const SweepGrid *g, const int *axis, int n, int64_t i, int64_t coord[SWEEP_MAX_AXES])
{
    for (int k = n - 1; k >= 0; k--) {
        coord[axis[k]] = i % g->axis[axis[k]].count;
        i /= g->axis[axis[k]].count;
    }
}

static int make_label(const SweepGrid *g, const int *axis, int n, int64_t i, char **out)
{
    int64_t coord[SWEEP_MAX_AXES] = {0};
    StrBuf b;
    str_init(&b);
    set_places(g, axis, n, i, coord);
    for (int k = 0; k < n; k++) {
        if (k)
            str_add(&b, ", ");
        sweep_grid_label(g, axis[k], coord[axis[k]], &b);
    }
    return str_take(out, &b);
}

static int64_t cell_index(const SweepGrid *g, const Layout *l, int64_t row, int64_t col)
{
    int64_t coord[SWEEP_MAX_AXES];
    memcpy(coord, l->fixed, sizeof coord);
    set_places(g, l->row, l->nrow, row, coord);
    set_places(g, l->col, l->ncol, col, coord);
    return sweep_grid_index(g, coord);
}

/* Longest side of a picture so that the sheet stays within SHEET_PIXELS. */
static int cell_side(const SheetCells *c, int cell, int largest)
{
    double fits = sqrt((double)SHEET_PIXELS / (double)(c->rows * c->cols));
    int side = cell ? cell : largest;
    return side <= fits ? side : fits < 8 ? 8 : (int)fits;
}

static int load_tile(IoImage *out, SweepRunFile *run, int64_t index, int side)
{
    IoImage img = {0};
    *out = img;
    if (index < 0) /* taken out by a condition: stays empty */
        return 0;
    TRY(sweep_runfile_image(run, index, &img));
    int longest = img.w > img.h ? img.w : img.h, times = side / longest;
    if (times == 1) {
        *out = img;
        return 0;
    }
    int w = img.w * times, h = img.h * times; /* whole pixels when it grows */
    if (!times) {
        w = (int)((int64_t)img.w * side / longest);
        h = (int)((int64_t)img.h * side / longest);
    }
    int rc = io_image_resize(out, &img, w > 0 ? w : 1, h > 0 ? h : 1, times ? IO_FILTER_NEAREST : IO_FILTER_BOX);
    io_image_deinit(&img);
    return rc;
}

void sheet_cells_deinit(SheetCells *c)
{
    for (int64_t i = 0; c->row && i < c->rows; i++)
        free(c->row[i]);
    for (int64_t i = 0; c->col && i < c->cols; i++)
        free(c->col[i]);
    free(c->row);
    free(c->col);
    free(c->image);
    memset(c, 0, sizeof *c);
}

int sheet_cells_init(SheetCells *c, int64_t rows, int64_t cols)
{
    memset(c, 0, sizeof *c);
    if (rows < 1 || cols < 1 || rows > SHEET_MAX_CELLS || cols > SHEET_MAX_CELLS || rows * cols > SHEET_MAX_CELLS)
        return err_set(ERR_RANGE, "sheet: %lld x %lld pictures: expected 1..%d", (long long)rows, (long long)cols, SHEET_MAX_CELLS);
    c->rows = rows;
    c->cols = cols;
    c->row = calloc((size_t)rows, sizeof *c->row);
    c->col = calloc((size_t)cols, sizeof *c->col);
    c->image = malloc((size_t)(rows * cols) * sizeof *c->image);
    if (!c->row || !c->col || !c->image)
        return err_set(ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < rows * cols; i++)
        c->image[i] = -1;
    return 0;
}

static int any(char *const *label, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (label[i] && label[i][0])
            return 1;
    return 0;
}

static int write_sheet(const char *path, const IoSheet *s)
{
    IoImage img = {0};
    uint8_t *pdf = NULL;
    size_t size;
    int rc;
    if (str_ends_with(path, ".pdf")) {
        TRY_GOTO(io_sheet_pdf(&pdf, &size, s));
        rc = io_file_write(path, pdf, size);
    } else {
        TRY_GOTO(io_sheet_build(&img, s));
        rc = io_png_write(path, &img, NULL, 0, 6);
    }
done:
    free(pdf);
    io_image_deinit(&img);
    return rc;
}

int sheet_cells_write(const char *path, SweepRunFile *run, const SheetCells *c, int cell, const char *title)
{
    int64_t n = c->rows * c->cols;
    int largest = 1, rc = 0;
    IoImage *tile = calloc((size_t)n, sizeof *tile);
    if (!tile)
        return err_set(ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < n; i++) {
        if (c->image[i] < 0 || c->image[i] >= run->meta.n)
            continue;
        int64_t w = sweep_block_i64(&run->meta, SWEEP_COL_WIDTH, c->image[i]), h = sweep_block_i64(&run->meta, SWEEP_COL_HEIGHT, c->image[i]);
        int64_t side = w > h ? w : h;
        largest = side > largest ? (int)side : largest;
    }
    for (int64_t i = 0; i < n; i++)
        if (c->image[i] >= 0)
            TRY_GOTO(load_tile(&tile[i], run, c->image[i], cell_side(c, cell, largest)));
    const IoSheet s = {.rows = (int)c->rows,
                       .cols = (int)c->cols,
                       .tile = tile,
                       .title = title && *title ? title : NULL,
                       .row_label = any(c->row, c->rows) ? (const char *const *)c->row : NULL,
                       .col_label = any(c->col, c->cols) ? (const char *const *)c->col : NULL};
    rc = write_sheet(path, &s);
done:
    for (int64_t i = 0; i < n; i++)
        io_image_deinit(&tile[i]);
    free(tile);
    return rc;
}

int sweep_sheet_write(const char *path, SweepRunFile *run, const SweepGrid *g, const SweepSheet *conf)
{
    Layout l;
    SheetCells c;
    int rc;
    TRY(layout_make(&l, g, conf));
    TRY_GOTO(sheet_cells_init(&c, l.rows, l.cols));
    for (int64_t i = 0; i < c.rows * c.cols; i++)
        c.image[i] = cell_index(g, &l, i / c.cols, i % c.cols);
    for (int64_t i = 0; i < c.rows && l.nrow; i++)
        TRY_GOTO(make_label(g, l.row, l.nrow, i, &c.row[i]));
    for (int64_t k = 0; k < c.cols && l.ncol; k++)
        TRY_GOTO(make_label(g, l.col, l.ncol, k, &c.col[k]));
    rc = sheet_cells_write(path, run, &c, conf->cell, conf->title);
done:
    sheet_cells_deinit(&c);
    return rc;
}
