#include "sweep/sheet.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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
static int cell_side(const Layout *l, const SweepSheet *conf, int largest)
{
    double fits = sqrt((double)SHEET_PIXELS / (double)(l->rows * l->cols));
    int side = conf->cell ? conf->cell : largest;
    return side <= fits ? side : fits < 8 ? 8 : (int)fits;
}

static int load_tile(IoImage *out, SweepRunFile *run, int64_t index, int side)
{
    IoImage img = {0};
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

typedef struct {
    IoImage *tile;
    char **row, **col;
    int64_t rows, cols;
} Tiles;

static void tiles_deinit(Tiles *t)
{
    for (int64_t i = 0; t->tile && i < t->rows * t->cols; i++)
        io_image_deinit(&t->tile[i]);
    for (int64_t i = 0; t->row && i < t->rows; i++)
        free(t->row[i]);
    for (int64_t i = 0; t->col && i < t->cols; i++)
        free(t->col[i]);
    free(t->tile);
    free(t->row);
    free(t->col);
}

static int tiles_load(Tiles *t, SweepRunFile *run, const SweepGrid *g, const Layout *l, int side)
{
    t->rows = l->rows;
    t->cols = l->cols;
    t->tile = calloc((size_t)(l->rows * l->cols), sizeof *t->tile);
    t->row = calloc((size_t)l->rows, sizeof *t->row);
    t->col = calloc((size_t)l->cols, sizeof *t->col);
    if (!t->tile || !t->row || !t->col)
        return err_set(ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < l->rows; i++)
        for (int64_t k = 0; k < l->cols; k++)
            TRY(load_tile(&t->tile[i * l->cols + k], run, cell_index(g, l, i, k), side));
    for (int64_t i = 0; i < l->rows; i++)
        TRY(make_label(g, l->row, l->nrow, i, &t->row[i]));
    for (int64_t k = 0; k < l->cols; k++)
        TRY(make_label(g, l->col, l->ncol, k, &t->col[k]));
    return 0;
}

int sweep_sheet_write(const char *path, SweepRunFile *run, const SweepGrid *g, const SweepSheet *conf)
{
    Layout l;
    Tiles t = {0};
    IoImage sheet = {0};
    int rc, largest = 1;
    TRY(layout_make(&l, g, conf));
    for (int64_t i = 0; i < run->meta.n; i++) {
        int64_t w = sweep_block_i64(&run->meta, SWEEP_COL_WIDTH, i), h = sweep_block_i64(&run->meta, SWEEP_COL_HEIGHT, i);
        int64_t side = w > h ? w : h;
        largest = side > largest ? (int)side : largest;
    }
    TRY_GOTO(tiles_load(&t, run, g, &l, cell_side(&l, conf, largest)));
    const IoSheet s = {.rows = (int)l.rows,
                       .cols = (int)l.cols,
                       .tile = t.tile,
                       .title = conf->title[0] ? conf->title : NULL,
                       .row_label = l.nrow ? (const char *const *)t.row : NULL,
                       .col_label = l.ncol ? (const char *const *)t.col : NULL};
    TRY_GOTO(io_sheet_build(&sheet, &s));
    rc = io_png_write(path, &sheet, NULL, 0, 6);
done:
    io_image_deinit(&sheet);
    tiles_deinit(&t);
    return rc;
}
