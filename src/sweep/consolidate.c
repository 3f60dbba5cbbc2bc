#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sweep/runfile.h"

enum { SAVE_BYTES = 64 << 20 };

/* A set of this name with the chunks of the source's, empty. */
static int make_set(IoH5 *to, IoH5 *from, const char *name)
{
    IoH5Info info;
    TRY(io_h5_info(from, name, &info));
    if (info.ndim != 4 || info.is_string)
        return err_set(ERR_SHAPE, "%s: '%s' has %d dimensions, expected 4", io_h5_path(from), name, info.ndim);
    const IoH5Store store = {.gzip = 4, .shuffle = info.dtype == DTYPE_F32, .checksum = 1, .chunk_rows = 1};
    return io_h5_create_rows(to, name, info.dtype, info.dim[0], 3, info.dim + 1, &store);
}

static int is_pixels(const char *name)
{
    return strncmp(name, "images", 6) == 0 || strncmp(name, "latents", 7) == 0;
}

static int copy_rest(IoH5 *to, IoH5 *from)
{
    char **names;
    int n, rc = 0;
    TRY(io_h5_list(from, "/", &names, &n));
    for (int i = 0; i < n && rc >= 0; i++) {
        if (is_pixels(names[i]))
            rc = make_set(to, from, names[i]);
        else if (strcmp(names[i], "parts") != 0)
            rc = io_h5_copy(to, from, names[i]);
    }
    io_h5_names_free(names, n);
    TRY(rc);
    TRY(io_h5_copy_attrs(to, from, "/"));
    TRY(io_h5_set_attr_str(to, "/", "layout", "contained"));
    if (io_h5_exists(to, "meta/part"))
        TRY(io_h5_delete(to, "meta/part"));
    return io_h5_delete(to, "meta/row");
}

static int set_name(char name[64], IoH5 *f, const char *base, int w, int h)
{
    snprintf(name, 64, "%s", base);
    if (!io_h5_exists(f, name))
        snprintf(name, 64, "%s_%dx%d", base, w, h);
    return io_h5_exists(f, name);
}

typedef struct {
    int w, h;
    int64_t next;
} Place;

/* Rows are given out per size, in the order of the items. */
static int take_row(Place *place, int *n, int w, int h, int64_t *row)
{
    int i = 0;
    while (i < *n && (place[i].w != w || place[i].h != h))
        i++;
    if (i == 256)
        return err_set(ERR_RANGE, "more than 256 image sizes in one run");
    if (i == *n)
        place[(*n)++] = (Place){.w = w, .h = h};
    *row = place[i].next++;
    return 0;
}

static int copy_item(SweepRunFile *run, IoH5 *to, int64_t k, int64_t row, int64_t *bytes)
{
    char name[64];
    IoImage img;
    float *latents;
    int64_t dim[3];
    TRY(sweep_runfile_image(run, k, &img));
    set_name(name, to, "images", img.w, img.h);
    int rc = io_h5_write_rows(to, name, DTYPE_U8, row, 1, img.data);
    *bytes += (int64_t)img.w * img.h * 3;
    int kept = set_name(name, to, "latents", img.w, img.h);
    io_image_deinit(&img);
    TRY(rc);
    if (!kept)
        return 0;
    TRY(sweep_runfile_latents(run, k, &latents, dim));
    rc = io_h5_write_rows(to, name, DTYPE_F32, row, 1, latents);
    *bytes += dim[0] * dim[1] * dim[2] * 4;
    free(latents);
    return rc;
}

static int copy_items(SweepRunFile *run, IoH5 *to)
{
    Place place[256];
    int n = 0, rc = 0;
    int64_t unsaved = 0, *row = malloc(((size_t)run->meta.n + 1) * sizeof *row);
    if (!row)
        return err_set(ERR_NOMEM, "out of memory");
    for (int64_t k = 0; k < run->meta.n && rc >= 0; k++) {
        rc = take_row(place, &n, (int)sweep_block_i64(&run->meta, SWEEP_COL_WIDTH, k), (int)sweep_block_i64(&run->meta, SWEEP_COL_HEIGHT, k),
                      &row[k]);
        if (rc >= 0)
            rc = copy_item(run, to, k, row[k], &unsaved);
        if (rc >= 0 && unsaved > SAVE_BYTES) {
            rc = io_h5_save(to);
            unsaved = 0;
        }
    }
    if (rc >= 0)
        rc = io_h5_write(to, "meta/row", DTYPE_I64, 1, &run->meta.n, row, NULL);
    free(row);
    return rc;
}

int sweep_runfile_consolidate(const char *path, const char *out)
{
    SweepRunFile run;
    IoH5 *to = NULL;
    int rc;
    TRY_GOTO(sweep_runfile_open(&run, path));
    TRY_GOTO(sweep_runfile_check(&run));
    TRY_GOTO(io_h5_create_safe(&to, out));
    TRY_GOTO(copy_rest(to, run.f));
    TRY_GOTO(copy_items(&run, to));
    rc = io_h5_commit(&to);
done:
    io_h5_close(to);
    sweep_runfile_close(&run);
    return rc;
}
