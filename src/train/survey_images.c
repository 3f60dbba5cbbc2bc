#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/png.h"
#include "train/dataset_impl.h"
#include "train/survey.h"

enum { BANDS = 4, BAND_BITS = 16, NEAR_BITS = 3, NEAR_MEAN = 8, RUN_MAX = 400, CELL = 128, COLUMNS = 10 };

/* ---- one image ---- */

static int fingerprint(const IoImage *rgb, TrainSurveyItem *s)
{
    IoImage grid = {0}, thumb = {0};
    int rc;
    TRY_GOTO(io_image_resize(&grid, rgb, 9, 8, IO_FILTER_BOX));
    TRY_GOTO(io_image_resize(&thumb, rgb, SURVEY_THUMB, SURVEY_THUMB, IO_FILTER_BOX));
    memcpy(s->thumb, thumb.data, sizeof s->thumb);
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 8; x++) {
            const uint8_t *a = grid.data + 3 * (9 * y + x), *b = a + 3;
            s->print = s->print << 1 | (2 * a[0] + 5 * a[1] + a[2] < 2 * b[0] + 5 * b[1] + b[2]);
        }
done:
    io_image_deinit(&grid);
    io_image_deinit(&thumb);
    return rc;
}

int train_survey_look(TrainDataset *d, int64_t i, TrainSurveyItem *s)
{
    IoImage img = {0};
    int rc = train_dataset_scan_item(d, i);
    if (rc >= 0)
        rc = train_dataset_pixels(d, i, &img);
    if (rc >= 0)
        rc = io_image_to_rgb(&img, d->background[0], d->background[1], d->background[2]);
    if (rc >= 0)
        rc = fingerprint(&img, s);
    io_image_deinit(&img);
    s->readable = rc >= 0;
    if (rc == ERR_NOMEM)
        return rc;
    return rc < 0 ? str_copy(&s->why, err_message()) : 0;
}

/* ---- duplicates ---- */

typedef struct {
    const void *key;
    size_t size;
    uint64_t band;
    int64_t i;
} Keyed;

static int by_bytes(const void *a, const void *b)
{
    const Keyed *x = a, *y = b;
    int c = memcmp(x->key, y->key, x->size);
    return c ? c : (x->i > y->i) - (x->i < y->i);
}

static int by_band(const void *a, const void *b)
{
    const Keyed *x = a, *y = b;
    return x->band != y->band ? (x->band < y->band ? -1 : 1) : (x->i > y->i) - (x->i < y->i);
}

static void add_name(const TrainDataset *d, int64_t i, StrBuf *out)
{
    const TrainItem *it = &d->items[i];
    str_add(out, it->path);
    if (it->row >= 0)
        str_add_format(out, "#%lld", (long long)it->row);
}

/* Runs of equal files in the sorted k. twin[i]: whether an equal file came before. */
static void list_equal(const TrainDataset *d, const Keyed *k, int64_t n, uint8_t *twin, int show, StrBuf *out)
{
    int64_t groups = 0, extra = 0;
    StrBuf lines;
    str_init(&lines);
    for (int64_t a = 0, b; a < n; a = b) {
        for (b = a + 1; b < n && !memcmp(k[a].key, k[b].key, k[a].size); b++)
            twin[k[b].i] = 1;
        if (b - a < 2)
            continue;
        extra += b - a - 1;
        if (groups++ >= show)
            continue;
        for (int64_t j = a; j < b; j++) {
            str_add(&lines, j == a ? "  " : " = ");
            add_name(d, k[j].i, &lines);
        }
        str_add_char(&lines, '\n');
    }
    str_add_format(out, "duplicates      %lld\n", (long long)extra);
    str_add(out, lines.data);
    if (groups > show)
        str_add_format(out, "  ... and %lld more\n", (long long)(groups - show));
    str_deinit(&lines);
}

static int is_near(const TrainSurveyItem *a, const TrainSurveyItem *b)
{
    int sum = 0, n = (int)sizeof a->thumb;
    if (__builtin_popcountll(a->print ^ b->print) > NEAR_BITS)
        return 0;
    for (int i = 0; i < n; i++)
        sum += abs(a->thumb[i] - b->thumb[i]);
    return sum <= NEAR_MEAN * n;
}

/* Prints that differ in at most 3 bits agree in one of 4 bands: images are compared with those that share a band. */
static int find_near(const TrainDataset *d, const TrainSurveyItem *s, Keyed *k, const uint8_t *twin, int64_t *partner)
{
    for (int64_t i = 0; i < d->count; i++)
        partner[i] = -1;
    for (int band = 0; band < BANDS; band++) {
        int64_t n = 0;
        for (int64_t i = 0; i < d->count; i++)
            if (s[i].readable && !twin[i])
                k[n++] = (Keyed){.band = s[i].print >> (band * BAND_BITS) & 0xFFFF, .i = i};
        qsort(k, (size_t)n, sizeof *k, by_band);
        for (int64_t a = 0; a < n; a++)
            for (int64_t b = a + 1; b < n && b - a < RUN_MAX && k[b].band == k[a].band; b++)
                if (partner[k[b].i] < 0 && is_near(&s[k[a].i], &s[k[b].i]))
                    partner[k[b].i] = k[a].i;
    }
    return 0;
}

static void list_near(const TrainDataset *d, const int64_t *partner, int show, StrBuf *out)
{
    int64_t pairs = 0;
    for (int64_t i = 0; i < d->count; i++)
        pairs += partner[i] >= 0;
    str_add_format(out, "nearly equal    %lld\n", (long long)pairs);
    for (int64_t i = 0, told = 0; i < d->count && told < show; i++) {
        if (partner[i] < 0)
            continue;
        told++;
        str_add(out, "  ");
        add_name(d, partner[i], out);
        str_add(out, " ~ ");
        add_name(d, i, out);
        str_add_char(out, '\n');
    }
    if (pairs > show)
        str_add_format(out, "  ... and %lld more\n", (long long)(pairs - show));
}

int train_survey_duplicates(TrainDataset *d, const TrainSurveyItem *s, int show, StrBuf *out)
{
    Keyed *k = malloc((size_t)d->count * sizeof *k);
    int64_t *partner = malloc((size_t)d->count * sizeof *partner), n = 0;
    uint8_t *twin = calloc((size_t)d->count, 1);
    int rc = k && partner && twin ? 0 : err_set(ERR_NOMEM, "dataset: out of memory");
    if (rc >= 0) {
        for (int64_t i = 0; i < d->count; i++)
            if (d->hashed[i])
                k[n++] = (Keyed){.key = d->content[i], .size = HASH_SIZE, .i = i};
        qsort(k, (size_t)n, sizeof *k, by_bytes);
        list_equal(d, k, n, twin, show, out);
        rc = find_near(d, s, k, twin, partner);
    }
    if (rc >= 0)
        list_near(d, partner, show, out);
    free(k);
    free(partner);
    free(twin);
    return rc;
}

/* ---- the sheet ---- */

static int label_of(const TrainDataset *d, int64_t i, StrBuf *text, char **out)
{
    const TrainItem *it = &d->items[i];
    TRY(train_dataset_caption(d, i, d->conf->seed, -1 - i, text));
    return str_format(out, "%d x %d: %s", it->size.w, it->size.h, text->data);
}

int train_survey_sheet(TrainDataset *d, const TrainSurveyItem *s, const TrainSurveyOptions *o)
{
    int64_t readable = 0, seen = 0;
    for (int64_t i = 0; i < d->count; i++)
        readable += s[i].readable;
    int n = (int)(readable < o->tiles ? readable : o->tiles), k = 0, rc = 0;
    if (!n)
        return 0;
    IoImage *tile = calloc((size_t)n + COLUMNS, sizeof *tile), sheet = {0};
    char **label = calloc((size_t)n + COLUMNS, sizeof *label);
    StrBuf text;
    str_init(&text);
    if (!tile || !label)
        rc = err_set(ERR_NOMEM, "contact sheet: out of memory");
    for (int64_t i = 0; rc >= 0 && i < d->count && k < n; i++) {
        if (!s[i].readable || seen++ * n / readable < k) /* spread evenly over all */
            continue;
        rc = train_dataset_load(d, i, d->conf->seed, 0, 0, &tile[k]);
        if (rc >= 0)
            rc = label_of(d, i, &text, &label[k++]);
    }
    int cols = k < COLUMNS ? k : COLUMNS;
    IoSheet grid = {.rows = (k + cols - 1) / cols, .cols = cols, .tile = tile, .cell_w = CELL, .cell_h = CELL,
                    .tile_label = (const char *const *)label};
    if (rc >= 0)
        rc = io_sheet_build(&sheet, &grid);
    if (rc >= 0)
        rc = io_png_write(o->sheet, &sheet, NULL, 0, -1);
    io_image_deinit(&sheet);
    for (int i = 0; i < k; i++) {
        io_image_deinit(&tile[i]);
        free(label[i]);
    }
    free(tile);
    free(label);
    str_deinit(&text);
    return rc;
}
