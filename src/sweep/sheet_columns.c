#include "sweep/sheet.h"

#include <stdlib.h>
#include <string.h>

/* Texts in the order in which they first came, found by hash. */
typedef struct {
    char **text;
    int64_t n, cap;   /* cap: slots, a power of two */
    int64_t *slot;    /* place in text + 1 */
} Texts;

static int texts_init(Texts *t, int64_t most)
{
    memset(t, 0, sizeof *t);
    for (t->cap = 16; t->cap < 2 * most; t->cap *= 2)
        ;
    t->text = calloc((size_t)most + 1, sizeof *t->text);
    t->slot = calloc((size_t)t->cap, sizeof *t->slot);
    return t->text && t->slot ? 0 : err_set(ERR_NOMEM, "out of memory");
}

static void texts_deinit(Texts *t)
{
    for (int64_t i = 0; i < t->n; i++)
        free(t->text[i]);
    free(t->text);
    free(t->slot);
}

static int texts_place(Texts *t, const char *text, int64_t *place)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a */
    for (const char *p = text; *p; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211u;
    int64_t at = (int64_t)(h & (uint64_t)(t->cap - 1));
    for (; t->slot[at]; at = (at + 1) & (t->cap - 1))
        if (strcmp(t->text[t->slot[at] - 1], text) == 0) {
            *place = t->slot[at] - 1;
            return 0;
        }
    TRY(str_copy(&t->text[t->n], text));
    *place = t->n;
    t->slot[at] = ++t->n;
    return 0;
}

/* "a red fox, cfg 7, ink:0.8" */
static int label(Table *t, int64_t row, const TableColumns *c, StrBuf *b)
{
    for (int i = 0; i < c->count; i++) {
        const char *name = t->column[c->column[i]].name;
        ExprValue v = {EXPR_NONE, 0, 0, NULL};
        size_t before;
        if (i)
            str_add(b, ", ");
        TRY(table_value(t, row, c->column[i], 0, &v));
        if (v.kind == EXPR_INTEGER || v.kind == EXPR_NUMBER)
            str_add_format(b, "%s ", name);
        before = b->len;
        TRY(table_text(t, row, c->column[i], b));
        if (b->len == before)
            str_add_format(b, "no %s", strcmp(name, "lora") == 0 ? "LoRA" : name);
    }
    return str_status(b);
}

static int place_all(Table *t, const TableRows *images, const TableColumns *c, Texts *texts, int64_t *place)
{
    StrBuf b;
    int rc = 0;
    str_init(&b);
    for (int64_t i = 0; i < images->n && rc >= 0; i++) {
        str_clear(&b);
        rc = label(t, images->row[i], c, &b);
        if (rc >= 0)
            rc = texts_place(texts, b.data, &place[i]);
    }
    str_deinit(&b);
    return rc;
}

static int varies(Table *t, const TableRows *images, int column, int *yes)
{
    StrBuf first, b;
    int rc;
    *yes = 0;
    str_init(&first);
    str_init(&b);
    rc = table_text(t, images->row[0], column, &first);
    for (int64_t i = 1; i < images->n && rc >= 0 && !*yes; i++) {
        str_clear(&b);
        rc = table_text(t, images->row[i], column, &b);
        *yes = strcmp(b.data, first.data) != 0;
    }
    str_deinit(&first);
    str_deinit(&b);
    return rc;
}

/* The last of the columns that vary goes across, the others downwards. */
static int choose(Table *t, const TableRows *images, TableColumns *rows, TableColumns *columns)
{
    static const char *const names[] = {"model", "vae", "source", "prompt", "negative", "lora", "size", "sampler", "spacing", "steps",
                                        "guidance", "guidance_rescale", "eta", "strength", "clip_skip", "seed"};
    enum { NAMES = sizeof names / sizeof *names };
    rows->column = calloc(NAMES, sizeof *rows->column);
    columns->column = calloc(NAMES, sizeof *columns->column);
    if (!rows->column || !columns->column)
        return err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; i < NAMES; i++)
        for (int c = 0; c < t->count; c++) {
            int yes;
            if (strcmp(t->column[c].name, names[i]) != 0)
                continue;
            TRY(varies(t, images, c, &yes));
            if (yes)
                rows->column[rows->count++] = c;
        }
    if (rows->count)
        columns->column[columns->count++] = rows->column[--rows->count];
    return 0;
}

static int fill(SheetCells *c, const TableRows *images, Texts *rows, Texts *cols, const int64_t *row, const int64_t *col, int64_t *hidden)
{
    TRY(sheet_cells_init(c, rows->n, cols->n));
    for (int64_t i = 0; i < images->n; i++) {
        int64_t *cell = &c->image[row[i] * c->cols + col[i]];
        *hidden += *cell >= 0;
        if (*cell < 0)
            *cell = images->row[i];
    }
    for (int64_t i = 0; i < rows->n; i++)
        TRY(str_copy(&c->row[i], rows->text[i]));
    for (int64_t i = 0; i < cols->n; i++)
        TRY(str_copy(&c->col[i], cols->text[i]));
    return 0;
}

int sheet_cells_by_columns(SheetCells *c, Table *t, const TableRows *images, const char *rows, const char *columns, int64_t *hidden)
{
    TableColumns r = {0}, k = {0};
    Texts row = {0}, col = {0};
    int rc;
    memset(c, 0, sizeof *c);
    *hidden = 0;
    if (!images->n)
        return err_set(ERR_NOTFOUND, "sheet: no image meets the condition");
    int64_t *at_row = calloc((size_t)images->n, sizeof *at_row), *at_col = calloc((size_t)images->n, sizeof *at_col);
    if (!at_row || !at_col) {
        rc = err_set(ERR_NOMEM, "out of memory");
        goto done;
    }
    if (rows && *rows)
        TRY_GOTO(table_columns(t, rows, "--rows", &r));
    if (columns && *columns)
        TRY_GOTO(table_columns(t, columns, "--columns", &k));
    if (!rows && !columns)
        TRY_GOTO(choose(t, images, &r, &k));
    TRY_GOTO(texts_init(&row, images->n));
    TRY_GOTO(texts_init(&col, images->n));
    TRY_GOTO(place_all(t, images, &r, &row, at_row));
    TRY_GOTO(place_all(t, images, &k, &col, at_col));
    rc = fill(c, images, &row, &col, at_row, at_col, hidden);
done:
    texts_deinit(&row);
    texts_deinit(&col);
    free(r.column);
    free(k.column);
    free(at_row);
    free(at_col);
    return rc;
}
