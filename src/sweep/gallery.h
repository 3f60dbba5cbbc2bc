/* A run as a folder that a browser opens from disk: index.html, its script and style, data/ (columns, records), thumbs/ (sprites of 100
 * pictures), images/. Nothing is loaded from anywhere else. */
#ifndef SWEEP_GALLERY_H
#define SWEEP_GALLERY_H

#include "sweep/picture.h"
#include "sweep/table.h"

typedef struct {
    const char *name;    /* title; NULL: the run's folder or file */
    PictureStyle style;  /* of images/ */
    int thumb;           /* side of a small picture, 16..512 */
    void (*tick)(void *ctx, int64_t done); /* may be NULL */
    void *ctx;
} GalleryOptions;

/* Files of an earlier gallery in `dir` are replaced. ERR_NOTFOUND when there are no rows. */
int gallery_write(const char *dir, Table *t, const TableRows *rows, const GalleryOptions *o);

#endif
