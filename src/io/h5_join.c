#include <stdlib.h>
#include <string.h>

#include "io/h5.h"
#include "io/h5_impl.h"

/* Path as seen from f's folder, where it lies in it. */
static const char *relative_to(const IoH5 *f, const char *path)
{
    const char *slash = strrchr(f->path, '/');
    size_t n = slash ? (size_t)(slash - f->path) + 1 : 0;
    return n && strncmp(path, f->path, n) == 0 && path[n] != '/' ? path + n : path;
}

/* Checks that a part has the dtype and row shape of the first one. */
static int check_part(const char *file, const char *name, const IoH5Info *first, const IoH5Info *part)
{
    int same = first->is_string == part->is_string && (first->is_string || first->dtype == part->dtype) && first->ndim == part->ndim;
    for (int i = 1; same && i < first->ndim; i++)
        same = first->dim[i] == part->dim[i];
    return same && part->ndim >= 1 ? 0 : err_set(ERR_SHAPE, "%s: %s: has another type or row shape than in the first file", file, name);
}

static int part_info(const char *file, const char *name, IoH5Info *info)
{
    IoH5 *p = NULL;
    TRY(io_h5_open(&p, file));
    int rc = io_h5_info(p, name, info);
    io_h5_close(p);
    return rc;
}

static int copy_strings(IoH5 *f, const char *const *files, int nfiles, const char *name)
{
    TRY(io_h5_create_strings(f, name, 0));
    for (int i = 0; i < nfiles; i++) {
        IoH5 *p = NULL;
        char **s = NULL;
        int64_t n = 0;
        TRY(io_h5_open(&p, files[i]));
        int rc = io_h5_read_strings(p, name, &s, &n);
        io_h5_close(p);
        if (rc == 0)
            rc = io_h5_append_strings(f, name, (const char *const *)s, n);
        free(s);
        TRY(rc);
    }
    return 0;
}

static int map_part(hid_t props, hid_t space, const char *source, const char *name, const IoH5Info *info, int64_t at)
{
    hsize_t start[IO_H5_MAX_DIM] = {0}, count[IO_H5_MAX_DIM];
    for (int i = 0; i < info->ndim; i++)
        count[i] = (hsize_t)info->dim[i];
    start[0] = (hsize_t)at;
    hid_t src = H5Screate_simple(info->ndim, count, NULL);
    herr_t bad = H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL);
    if (bad >= 0)
        bad = H5Pset_virtual(props, space, source, name, src);
    H5Sclose(src);
    return (int)bad;
}

static int map_parts(IoH5 *f, const char *const *files, int nfiles, const char *name, const IoH5Info *part, int64_t rows)
{
    hsize_t dim[IO_H5_MAX_DIM];
    int64_t at = 0;
    int bad = 0;
    TRY(h5_new_name(f, name));
    for (int i = 0; i < part->ndim; i++)
        dim[i] = (hsize_t)(i ? part->dim[i] : rows);
    hid_t props = h5_dataset_props(), space = H5Screate_simple(part->ndim, dim, NULL), type = h5_type_of(part->dtype);
    for (int i = 0; i < nfiles && bad >= 0; i++) {
        if (part[i].dim[0])
            bad = map_part(props, space, relative_to(f, files[i]), name, &part[i], at);
        at += part[i].dim[0];
    }
    H5Sselect_all(space);
    int rc = bad < 0 ? h5_fail(ERR_IO, f, name, "cannot map parts") : 0;
    if (rc == 0)
        rc = h5_make_dataset(f, name, type, part->dtype, space, props);
    else
        H5Pclose(props);
    H5Tclose(type);
    H5Sclose(space);
    return rc;
}

static int join_name(IoH5 *f, const char *const *files, int nfiles, const char *name)
{
    IoH5Info *part = calloc((size_t)nfiles, sizeof *part);
    int64_t rows = 0;
    int rc = 0;
    if (!part)
        return err_set(ERR_NOMEM, "%s: out of memory", f->path);
    for (int i = 0; i < nfiles && rc == 0; i++) {
        rc = part_info(files[i], name, &part[i]);
        if (rc == 0)
            rc = check_part(files[i], name, &part[0], &part[i]);
        rows += part[i].dim[0];
    }
    if (rc == 0)
        rc = part[0].is_string ? copy_strings(f, files, nfiles, name) : map_parts(f, files, nfiles, name, part, rows);
    free(part);
    return rc;
}

int io_h5_join(IoH5 *f, const char *const *files, int nfiles, const char *const *names, int nnames)
{
    h5_quiet();
    if (nfiles < 1)
        return err_set(ERR_RANGE, "%s: nothing to join", f->path);
    for (int i = 0; i < nnames; i++)
        TRY(join_name(f, files, nfiles, names[i]));
    return 0;
}
