#include "sweep/table.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *of;
} aliases[] = {{"cfg", "guidance"},     {"cfg_scale", "guidance"}, {"negative_prompt", "negative"},
               {"scheduler", "spacing"}, {"schedule", "spacing"}};
enum { ALIASES = sizeof aliases / sizeof *aliases };

static int find(const Table *t, const char *name)
{
    for (int i = 0; i < t->count; i++)
        if (strcmp(t->column[i].name, name) == 0)
            return i;
    return -1;
}

static int add(Table *t, const char *name, TableKind kind, int at, int alias)
{
    if (find(t, name) >= 0)
        return 0;
    TableColumn *grown = realloc(t->column, (size_t)(t->count + 1) * sizeof *grown);
    if (!grown)
        return err_set(ERR_NOMEM, "out of memory");
    t->column = grown;
    TRY(str_copy(&grown[t->count].name, name));
    grown[t->count].kind = kind;
    grown[t->count].at = at;
    grown[t->count++].alias = alias;
    return 0;
}

static int add_meta(Table *t)
{
    for (int c = 0; c < SWEEP_COLS; c++) {
        const char *name = SWEEP_COLUMN[c].name, *slash = strrchr(name, '/');
        if (c != SWEEP_COL_RECORD)
            TRY(add(t, slash ? slash + 1 : name, c == SWEEP_COL_LORA ? TABLE_LORA : TABLE_COLUMN, c, 0));
    }
    return add(t, "size", TABLE_SIZE, 0, 0);
}

/* Labels of all axes, where the images are the whole product of them. */
static int add_axes(Table *t, IoH5 *f)
{
    char **names = NULL, path[256];
    int64_t n = 0, product = 1;
    int rc = 0;
    if (!io_h5_exists(f, "grid/axes") || !io_h5_exists(f, "grid/shape"))
        return 0;
    TRY(io_h5_read_strings(f, "grid/axes", &names, &n));
    if (n < 1 || n > SWEEP_MAX_AXES || io_h5_read(f, "grid/shape", DTYPE_I64, t->shape, n) < 0)
        goto done;
    for (int64_t i = 0; i < n; i++)
        product = t->shape[i] < 1 || product > SWEEP_MAX_ITEMS ? 0 : product * t->shape[i];
    if (product != t->run->meta.n)
        goto done;
    for (t->naxes = 0; t->naxes < n; t->naxes++) {
        int64_t labels = 0;
        snprintf(path, sizeof path, "grid/labels/%.200s", names[t->naxes]);
        TRY_GOTO(io_h5_read_strings(f, path, &t->label[t->naxes], &labels));
        if (labels == t->shape[t->naxes])
            TRY_GOTO(add(t, names[t->naxes], TABLE_AXIS, t->naxes, 0));
    }
done:
    free(names);
    return rc;
}

static int load_record(Table *t, int64_t row)
{
    if (t->record && t->record_row == row)
        return 0;
    json_decref(t->record);
    json_error_t e;
    t->record = json_loads(sweep_runfile_record(t->run, row), JSON_REJECT_DUPLICATES, &e);
    t->record_row = row;
    if (!json_is_object((json_t *)t->record))
        return err_set(ERR_FORMAT, "%s: the record of image %lld is no JSON object", io_h5_path(t->run->f), (long long)row);
    return 0;
}

static int add_record_keys(Table *t)
{
    const char *key;
    json_t *v;
    if (!t->run->meta.n)
        return 0;
    TRY(load_record(t, 0));
    json_object_foreach((json_t *)t->record, key, v) {
        if (!json_is_array(v) && !json_is_object(v))
            TRY(add(t, key, TABLE_RECORD, 0, 0));
    }
    return 0;
}

int table_init(Table *t, SweepRunFile *run)
{
    memset(t, 0, sizeof *t);
    t->run = run;
    TRY(add_meta(t));
    TRY(add_record_keys(t));
    TRY(add_axes(t, run->f));
    for (int i = 0; i < ALIASES; i++) {
        int of = find(t, aliases[i].of);
        if (of >= 0)
            TRY(add(t, aliases[i].name, t->column[of].kind, t->column[of].at, 1));
    }
    return 0;
}

void table_deinit(Table *t)
{
    for (int i = 0; i < t->count; i++)
        free(t->column[i].name);
    free(t->column);
    for (int i = 0; i < SWEEP_MAX_AXES; i++)
        free(t->label[i]);
    json_decref(t->record);
    memset(t, 0, sizeof *t);
}

int table_find(const Table *t, const char *name, const char *what, int *column)
{
    if ((*column = find(t, name)) >= 0)
        return 0;
    const char **names = calloc((size_t)t->count + 1, sizeof *names);
    if (!names)
        return err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; i < t->count; i++)
        names[i] = t->column[i].name;
    const char *near = str_nearest(name, names, t->count);
    int rc = near ? err_set(ERR_NOTFOUND, "%s: unknown column '%s'; did you mean '%s'?", what, name, near)
                  : err_set(ERR_NOTFOUND, "%s: unknown column '%s'; atelier ls RUN.h5 --columns=? lists them", what, name);
    free(names);
    return rc;
}

static int text_value(ExprValue *out, const char *text)
{
    *out = (ExprValue){.kind = EXPR_TEXT, .text = text};
    return 1;
}

static int column_value(const SweepBlock *b, int c, int64_t row, ExprValue *out)
{
    if (SWEEP_COLUMN[c].text)
        return text_value(out, sweep_block_text(b, (SweepCol)c, row));
    if (SWEEP_COLUMN[c].dtype == DTYPE_F64)
        *out = (ExprValue){.kind = EXPR_NUMBER, .number = ((const double *)b->col[c])[row]};
    else
        *out = (ExprValue){.kind = EXPR_INTEGER, .integer = sweep_block_i64(b, (SweepCol)c, row)};
    return 1;
}

/* A place for texts made here: the table's own, kept in the record's object. */
static int kept_text(Table *t, ExprValue *out, json_t *made)
{
    if (!made || json_object_set_new((json_t *)t->record, "\x01" "kept", made) < 0)
        return err_set(ERR_NOMEM, "out of memory");
    return text_value(out, json_string_value(json_object_get((json_t *)t->record, "\x01" "kept")));
}

static int lora_value(Table *t, int64_t row, int k, ExprValue *out)
{
    TRY(load_record(t, row));
    json_t *one = json_array_get(json_object_get((json_t *)t->record, "lora"), (size_t)k / 2);
    const char *name = json_string_value(json_object_get(one, "name"));
    if (!name)
        return 0;
    if (k % 2 == 0)
        return text_value(out, name);
    return kept_text(t, out, json_sprintf("%s:%g", name, json_number_value(json_object_get(one, "scale"))));
}

static int record_value(Table *t, int64_t row, const char *key, ExprValue *out)
{
    TRY(load_record(t, row));
    const json_t *v = json_object_get((json_t *)t->record, key);
    if (json_is_string(v))
        return text_value(out, json_string_value(v));
    if (json_is_integer(v))
        *out = (ExprValue){.kind = EXPR_INTEGER, .integer = json_integer_value(v)};
    else if (json_is_number(v))
        *out = (ExprValue){.kind = EXPR_NUMBER, .number = json_number_value(v)};
    else if (json_is_boolean(v))
        *out = (ExprValue){.kind = EXPR_INTEGER, .integer = json_is_true(v)};
    else
        return 0;
    return 1;
}

static const char *axis_label(const Table *t, int64_t row, int axis)
{
    for (int i = t->naxes - 1; i > axis; i--)
        row /= t->shape[i];
    return t->label[axis][row % t->shape[axis]];
}

int table_value(Table *t, int64_t row, int column, int k, ExprValue *out)
{
    const TableColumn *c = &t->column[column];
    const SweepBlock *b = &t->run->meta;
    if (c->kind == TABLE_LORA)
        return lora_value(t, row, k, out);
    if (k > 0)
        return 0;
    switch (c->kind) {
    case TABLE_COLUMN:
        return column_value(b, c->at, row, out);
    case TABLE_AXIS:
        return text_value(out, axis_label(t, row, c->at));
    case TABLE_RECORD:
        return record_value(t, row, c->name, out);
    default:
        TRY(load_record(t, row));
        return kept_text(t, out, json_sprintf("%dx%d", (int)sweep_block_i64(b, SWEEP_COL_WIDTH, row),
                                              (int)sweep_block_i64(b, SWEEP_COL_HEIGHT, row)));
    }
}

/* One value for printing: all adapters together. */
static int whole_value(Table *t, int64_t row, int column, ExprValue *out)
{
    if (t->column[column].kind == TABLE_LORA)
        return text_value(out, sweep_block_text(&t->run->meta, SWEEP_COL_LORA, row));
    return table_value(t, row, column, 0, out);
}

static void add_value(const ExprValue *v, StrBuf *b, int json)
{
    if (v->kind == EXPR_INTEGER)
        str_add_format(b, "%lld", (long long)v->integer);
    else if (v->kind == EXPR_NUMBER && v->number - v->number == 0)
        str_add_number(b, v->number, 0);
    else if (v->kind == EXPR_TEXT && json)
        str_add_json(b, v->text, strlen(v->text));
    else if (v->kind == EXPR_TEXT)
        str_add(b, v->text);
    else if (json)
        str_add(b, "null");
}

int table_text(Table *t, int64_t row, int column, StrBuf *b)
{
    ExprValue v = {EXPR_NONE, 0, 0, NULL};
    TRY(whole_value(t, row, column, &v));
    add_value(&v, b, 0);
    return 0;
}

int table_json(Table *t, int64_t row, int column, StrBuf *b)
{
    ExprValue v = {EXPR_NONE, 0, 0, NULL};
    TRY(whole_value(t, row, column, &v));
    add_value(&v, b, 1);
    return 0;
}

/* ---- choosing rows ---- */

typedef struct {
    Table *table;
    int64_t row;
} Cursor;

static int get_value(void *ctx, int id, int k, ExprValue *out)
{
    Cursor *c = ctx;
    return table_value(c->table, c->row, id, k, out);
}

static int select_rows(Table *t, const Expr *e, TableRows *out)
{
    Cursor c = {t, 0};
    for (; c.row < t->run->meta.n; c.row++) {
        int truth = 1;
        if (e)
            TRY(expr_test(e, get_value, &c, &truth));
        if (truth)
            out->row[out->n++] = c.row;
    }
    return 0;
}

int table_select(Table *t, const char *where, TableRows *out)
{
    Expr *e = NULL;
    int rc = 0;
    *out = (TableRows){0};
    ExprName *names = calloc((size_t)t->count + 1, sizeof *names);
    out->row = calloc((size_t)t->run->meta.n + 1, sizeof *out->row);
    if (!names || !out->row) {
        rc = err_set(ERR_NOMEM, "out of memory");
        goto done;
    }
    for (int i = 0; i < t->count; i++)
        names[i] = (ExprName){t->column[i].name, i};
    if (where && *where)
        TRY_GOTO(expr_parse(&e, where, names, t->count, "--where"));
    rc = select_rows(t, e, out);
done:
    expr_destroy(e);
    free(names);
    if (rc < 0)
        table_rows_deinit(out);
    return rc;
}

void table_rows_deinit(TableRows *r)
{
    free(r->row);
    *r = (TableRows){0};
}

int table_columns(const Table *t, const char *list, const char *what, TableColumns *out)
{
    int rc = 0;
    *out = (TableColumns){0};
    char *copy;
    TRY(str_copy(&copy, list));
    if (!(out->column = calloc(strlen(list) + 1, sizeof *out->column))) {
        rc = err_set(ERR_NOMEM, "out of memory");
        goto done;
    }
    char *rest = copy, *name;
    while ((name = strsep(&rest, ","))) {
        while (*name == ' ')
            name++;
        size_t n = strlen(name);
        while (n && name[n - 1] == ' ')
            name[--n] = 0;
        if (!n) {
            rc = err_set(ERR_USAGE, "%s: expected names with commas between them, got '%s'", what, list);
            break;
        }
        if ((rc = table_find(t, name, what, &out->column[out->count])) < 0)
            break;
        out->count++;
    }
done:
    free(copy);
    if (rc < 0) {
        free(out->column);
        *out = (TableColumns){0};
    }
    return rc;
}
