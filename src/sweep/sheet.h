/* The contact sheet of a sweep: a grid of its images with the axes' values as labels. */
#ifndef SWEEP_SHEET_H
#define SWEEP_SHEET_H

#include "sweep/runfile.h"

/* Checks the names of axes before any work. ERR_NOTFOUND, ERR_RANGE. */
int sweep_sheet_check(const SweepGrid *g, const SweepSheet *conf);
/* Reads the images from `run` and writes a PNG. Pictures are shrunk where the sheet would get too large. */
int sweep_sheet_write(const char *path, SweepRunFile *run, const SweepGrid *g, const SweepSheet *conf);

#endif
