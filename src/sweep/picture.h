/* Image files that carry their record, and where images come from: FILE.png|.jpg|.webp or RUN.h5#INDEX. */
#ifndef SWEEP_PICTURE_H
#define SWEEP_PICTURE_H

#include "sweep/runfile.h"

typedef enum { PICTURE_PNG, PICTURE_JPEG, PICTURE_WEBP } PictureFormat;
extern const char *const PICTURE_FORMAT_NAMES[]; /* ends with NULL */
extern const char *const PICTURE_EXTENSION[];    /* ".png" */

typedef struct {
    PictureFormat format;
    int quality;   /* JPEG 1..100, WebP 0..100 */
    int lossless;  /* WebP */
} PictureStyle;

/* "png", "jpeg", "jpg" or "webp" (of a name or an extension). ERR_RANGE. */
int picture_format_parse(PictureFormat *out, const char *name);
/* By the extension of a path; PNG where it has none. */
int picture_format_of(PictureFormat *out, const char *path);
/* RGB pixels with A1111's text and the record (as given, JSON). Atomic. */
int picture_write(const char *path, const IoImage *img, const char *json, const PictureStyle *style);

/* "run.h5#12" -> path and 12; -1 without a number. *file: free(). ERR_USAGE for what is no number. */
int picture_ref_parse(const char *ref, char **file, int64_t *index);
int picture_is_run(const char *path); /* 1: an HDF5 file, by content */

#endif
