#include "sweep/runfile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"

static int read_meta(SweepRunFile *r)
{
    SweepBlock *b = &r->meta;
    IoH5Info info;
    TRY(io_h5_info(r->f, "meta/index", &info));
    if (info.ndim != 1 || info.dim[0] < 0 || info.dim[0] > SWEEP_MAX_ITEMS)
        return err_set(ERR_SHAPE, "%s: 'meta/index' is no column", io_h5_path(r->f));
    b->n = info.dim[0];
    return sweep_block_read_columns(b, r->f);
}

/* Files with the pixels, as seen from here. */
static int read_parts(SweepRunFile *r)
{
    char **names, *dir;
    int64_t n;
    TRY(io_h5_read_strings(r->f, "parts", &names, &n));
    int rc = io_path_dir(&dir, io_h5_path(r->f));
    if (rc >= 0 && (!(r->part = calloc((size_t)n + 1, sizeof *r->part)) || !(r->part_of = calloc((size_t)r->meta.n + 1, sizeof *r->part_of))))
        rc = err_set(ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < n && rc >= 0; i++, r->nparts++)
        rc = io_path_join(&r->part[i], dir, names[i]);
    if (rc >= 0)
        rc = io_h5_read(r->f, "meta/part", DTYPE_I32, r->part_of, r->meta.n);
    free(names);
    free(dir);
    return rc;
}

int sweep_runfile_open(SweepRunFile *r, const char *path)
{
    char *format;
    memset(r, 0, sizeof *r);
    if (io_file_is_dir(path))
        return err_set(ERR_FORMAT, "%s: a folder, expected a file: the images of a sweep are in OUTPUT/run.h5 when it is done", path);
    TRY(io_h5_open(&r->f, path));
    TRY_CTX(io_h5_attr_str(r->f, "/", "format", &format), "%s: not the run file of a sweep", path);
    int ok = strcmp(format, "atelier sweep") == 0;
    free(format);
    if (!ok)
        return err_set(ERR_FORMAT, "%s: not the run file of a sweep", path);
    TRY(io_h5_read_string(r->f, "config", &r->config));
    TRY(read_meta(r));
    return io_h5_exists(r->f, "parts") ? read_parts(r) : 0;
}

void sweep_runfile_close(SweepRunFile *r)
{
    sweep_block_deinit(&r->meta);
    io_h5_close(r->f);
    for (int i = 0; i < r->nparts; i++)
        free(r->part[i]);
    free(r->part);
    free(r->part_of);
    free(r->config);
    memset(r, 0, sizeof *r);
}

/* HDF5 shows zeros where a file is missing. */
static int check_part(const SweepRunFile *r, int64_t index)
{
    if (!r->part_of)
        return 0;
    int p = r->part_of[index];
    if (p < 0 || p >= r->nparts)
        return err_set(ERR_RANGE, "%s: image %lld: part %d of %d", io_h5_path(r->f), (long long)index, p, r->nparts);
    return io_file_exists(r->part[p]) ? 0
                                      : err_set(ERR_NOTFOUND, "%s: its part %s is not there; the folder of parts belongs beside it",
                                                io_h5_path(r->f), r->part[p]);
}

int sweep_runfile_check(const SweepRunFile *r)
{
    for (int i = 0; i < r->nparts; i++)
        if (!io_file_exists(r->part[i]))
            return err_set(ERR_NOTFOUND, "%s: its part %s is not there; the folder of parts belongs beside it", io_h5_path(r->f), r->part[i]);
    return 0;
}

int sweep_runfile_latents(SweepRunFile *r, int64_t index, float **out, int64_t dim[3])
{
    char name[64];
    IoH5Info info;
    int64_t row;
    *out = NULL;
    if (index < 0 || index >= r->meta.n)
        return err_set(ERR_RANGE, "%s: image %lld: expected 0..%lld", io_h5_path(r->f), (long long)index, (long long)r->meta.n - 1);
    TRY(check_part(r, index));
    snprintf(name, sizeof name, "latents");
    if (!io_h5_exists(r->f, name))
        snprintf(name, sizeof name, "latents_%dx%d", (int)sweep_block_i64(&r->meta, SWEEP_COL_WIDTH, index),
                 (int)sweep_block_i64(&r->meta, SWEEP_COL_HEIGHT, index));
    TRY(io_h5_info(r->f, name, &info));
    if (info.ndim != 4 || info.is_string || info.dtype != DTYPE_F32)
        return err_set(ERR_SHAPE, "%s: '%s' is no [n,C,h,w] of floats", io_h5_path(r->f), name);
    memcpy(dim, info.dim + 1, 3 * sizeof *dim);
    TRY(io_h5_read_rows(r->f, "meta/row", DTYPE_I64, index, 1, &row));
    if (!(*out = malloc((size_t)(dim[0] * dim[1] * dim[2]) * sizeof **out + 1)))
        return err_set(ERR_NOMEM, "out of memory");
    int rc = io_h5_read_rows(r->f, name, DTYPE_F32, row, 1, *out);
    if (rc < 0) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

const char *sweep_runfile_record(const SweepRunFile *r, int64_t index)
{
    return sweep_block_text(&r->meta, SWEEP_COL_RECORD, index);
}

int sweep_runfile_image(SweepRunFile *r, int64_t index, IoImage *out)
{
    if (index < 0 || index >= r->meta.n)
        return err_set(ERR_RANGE, "%s: image %lld: expected 0..%lld", io_h5_path(r->f), (long long)index, (long long)r->meta.n - 1);
    TRY(check_part(r, index));
    int64_t row;
    char name[64] = "images";
    int w = (int)sweep_block_i64(&r->meta, SWEEP_COL_WIDTH, index), h = (int)sweep_block_i64(&r->meta, SWEEP_COL_HEIGHT, index);
    TRY(io_h5_read_rows(r->f, "meta/row", DTYPE_I64, index, 1, &row));
    if (!io_h5_exists(r->f, name))
        snprintf(name, sizeof name, "images_%dx%d", w, h);
    IoH5Info info;
    TRY(io_h5_info(r->f, name, &info));
    if (info.ndim != 4 || info.dtype != DTYPE_U8 || info.dim[1] != h || info.dim[2] != w || info.dim[3] != 3)
        return err_set(ERR_SHAPE, "%s: '%s' is no [n,%d,%d,3] of bytes", io_h5_path(r->f), name, h, w);
    TRY(io_image_init(out, w, h, 3));
    int rc = io_h5_read_rows(r->f, name, DTYPE_U8, row, 1, out->data);
    if (rc < 0)
        io_image_deinit(out);
    return rc;
}

int sweep_runfile_matches(const char *path, const char *identity, int *matches)
{
    IoH5 *f;
    char *text = NULL;
    *matches = 0;
    TRY(io_h5_open(&f, path));
    int rc = io_h5_attr_str(f, "/", "identity", &text);
    if (rc >= 0)
        *matches = strcmp(text, identity) == 0;
    free(text);
    io_h5_close(f);
    return rc;
}
