/* A run file as a table: one row per image, columns by name. What can be named, in `--where`, in lists of columns and on the sides of a
 * sheet: the columns of meta/ (docs/formats.md), the axes of the sweep, every plain key of the records, `size`, and the everyday names
 * cfg, cfg_scale, negative_prompt, scheduler, schedule. */
#ifndef SWEEP_TABLE_H
#define SWEEP_TABLE_H

#include "sweep/runfile.h"
#include "text/expr.h"

typedef enum { TABLE_COLUMN, TABLE_LORA, TABLE_SIZE, TABLE_AXIS, TABLE_RECORD } TableKind;
typedef struct {
    char *name;
    TableKind kind;
    int at;       /* SweepCol, or number of the axis */
    int alias;    /* an everyday name of another column */
} TableColumn;

typedef struct {
    SweepRunFile *run;   /* borrowed */
    TableColumn *column;
    int count;
    int naxes;
    int64_t shape[SWEEP_MAX_AXES];
    char **label[SWEEP_MAX_AXES]; /* values of each axis as text */
    void *record;                 /* the record read last */
    int64_t record_row;
} Table;

/* Borrows `run`. table_deinit in every case. */
int table_init(Table *t, SweepRunFile *run);
void table_deinit(Table *t);
/* Place of a column. ERR_NOTFOUND with the nearest name and `what` in front. */
int table_find(const Table *t, const char *name, const char *what, int *column);
/* Value k of a cell: 1 and *out, 0 where there are not so many (adapters are several values: "name" and "name:scale" of each, none without).
 * Texts are borrowed until the next call. */
int table_value(Table *t, int64_t row, int column, int k, ExprValue *out);
/* A cell as one text; added to b. */
int table_text(Table *t, int64_t row, int column, StrBuf *b);
/* The same as JSON. */
int table_json(Table *t, int64_t row, int column, StrBuf *b);

typedef struct {
    int64_t *row;
    int64_t n;
} TableRows;
/* Rows that meet the condition ("" or NULL: all), ascending. table_rows_deinit. */
int table_select(Table *t, const char *where, TableRows *out);
void table_rows_deinit(TableRows *r);

typedef struct {
    int *column;
    int count;
} TableColumns;
/* "a,b,c". free(out->column). */
int table_columns(const Table *t, const char *list, const char *what, TableColumns *out);

#endif
