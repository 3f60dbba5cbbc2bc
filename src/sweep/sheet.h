/* The contact sheet of a sweep: a grid of its images with the axes' values as labels. */
#ifndef SWEEP_SHEET_H
#define SWEEP_SHEET_H

#include "sweep/table.h"

/* Checks the names of axes before any work. ERR_NOTFOUND, ERR_RANGE. */
int sweep_sheet_check(const SweepGrid *g, const SweepSheet *conf);
/* Which image of a run is where, and the labels. */
typedef struct {
    int64_t rows, cols;
    int64_t *image;     /* [rows*cols], -1: none */
    char **row, **col;  /* [rows], [cols]; NULL: no label */
} SheetCells;
/* Empty cells. ERR_RANGE over 20,000. sheet_cells_deinit in every case. */
int sheet_cells_init(SheetCells *c, int64_t rows, int64_t cols);
void sheet_cells_deinit(SheetCells *c);
/* A PDF where the path ends with .pdf, else a PNG. cell: longest side of a picture in pixels (grown by whole factors only), 0: as rendered;
 * less where the sheet would get too large. */
int sheet_cells_write(const char *path, SweepRunFile *run, const SheetCells *c, int cell, const char *title);
/* Cells by the values of columns of a run (sweep/table.h): one row for each set of values of `rows` that occurs, likewise for `columns`
 * (comma-separated names; both NULL: what varies). The first image of a cell is shown; *hidden: how many are behind it. */
int sheet_cells_by_columns(SheetCells *c, Table *t, const TableRows *images, const char *rows, const char *columns, int64_t *hidden);

/* Reads the images from `run` and writes a PNG. Pictures are shrunk where the sheet would get too large. */
int sweep_sheet_write(const char *path, SweepRunFile *run, const SweepGrid *g, const SweepSheet *conf);

#endif
