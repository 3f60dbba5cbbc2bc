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

/* Checks that a piece has the dtype and row shape of the first one, and the rows it names. */
static int check_piece(const IoH5Piece *p, const char *source, const IoH5Info *first, const IoH5Info *info)
{
    int same = !info->is_string && !first->is_string && first->dtype == info->dtype && first->ndim == info->ndim && info->ndim >= 1;
    for (int i = 1; same && i < first->ndim; i++)
        same = first->dim[i] == info->dim[i];
    if (!same)
        return err_set(ERR_SHAPE, "%s: %s: has another type or row shape than in the first file", p->file, source);
    if (p->from < 0 || p->rows < 0 || p->from > info->dim[0] || p->rows > info->dim[0] - p->from)
        return err_set(ERR_RANGE, "%s: %s: rows %lld..%lld of %lld", p->file, source, (long long)p->from, (long long)(p->from + p->rows),
                       (long long)info->dim[0]);
    return 0;
}

static int piece_info(const IoH5Piece *p, const char *source, IoH5Info *info)
{
    IoH5 *f = NULL;
    TRY(io_h5_open(&f, p->file));
    int rc = io_h5_info(f, source, info);
    io_h5_close(f);
    return rc;
}

static int map_piece(hid_t props, hid_t space, const char *file, const char *source, const IoH5Info *info, const IoH5Piece *p, int64_t at)
{
    hsize_t start[IO_H5_MAX_DIM] = {0}, count[IO_H5_MAX_DIM], all[IO_H5_MAX_DIM];
    for (int i = 0; i < info->ndim; i++)
        all[i] = count[i] = (hsize_t)info->dim[i];
    count[0] = (hsize_t)p->rows;
    start[0] = (hsize_t)p->from;
    hid_t src = H5Screate_simple(info->ndim, all, NULL);
    herr_t bad = H5Sselect_hyperslab(src, H5S_SELECT_SET, start, NULL, count, NULL);
    start[0] = (hsize_t)at;
    if (bad >= 0)
        bad = H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL);
    if (bad >= 0)
        bad = H5Pset_virtual(props, space, file, source, src);
    H5Sclose(src);
    return (int)bad;
}

static int map_pieces(IoH5 *f, const char *name, const char *source, const IoH5Piece *piece, int n, const IoH5Info *info, int64_t rows)
{
    hsize_t dim[IO_H5_MAX_DIM];
    int64_t at = 0;
    int bad = 0;
    TRY(h5_new_name(f, name));
    for (int i = 0; i < info->ndim; i++)
        dim[i] = (hsize_t)(i ? info->dim[i] : rows);
    hid_t props = h5_dataset_props(), space = H5Screate_simple(info->ndim, dim, NULL), type = h5_type_of(info->dtype);
    for (int i = 0; i < n && bad >= 0; i++) {
        if (piece[i].rows)
            bad = map_piece(props, space, relative_to(f, piece[i].file), source, &info[i], &piece[i], at);
        at += piece[i].rows;
    }
    H5Sselect_all(space);
    int rc = bad < 0 ? h5_fail(ERR_IO, f, name, "cannot map parts") : 0;
    if (rc == 0)
        rc = h5_make_dataset(f, name, type, info->dtype, space, props);
    else
        H5Pclose(props);
    H5Tclose(type);
    H5Sclose(space);
    return rc;
}

int io_h5_join(IoH5 *f, const char *name, const char *source, const IoH5Piece *piece, int n)
{
    int64_t rows = 0;
    int rc = 0;
    H5_CALL;
    if (n < 1)
        return err_set(ERR_RANGE, "%s: nothing to join", f->path);
    IoH5Info *info = calloc((size_t)n, sizeof *info);
    if (!info)
        return err_set(ERR_NOMEM, "%s: out of memory", f->path);
    for (int i = 0; i < n && rc == 0; i++) {
        if (i && strcmp(piece[i].file, piece[i - 1].file) == 0)
            info[i] = info[i - 1];
        else
            rc = piece_info(&piece[i], source, &info[i]);
        if (rc == 0)
            rc = check_piece(&piece[i], source, &info[0], &info[i]);
        rows += piece[i].rows;
    }
    if (rc == 0)
        rc = map_pieces(f, name, source, piece, n, info, rows);
    free(info);
    return rc;
}

int io_h5_copy(IoH5 *to, IoH5 *from, const char *name)
{
    H5_CALL;
    TRY(h5_new_name(to, name));
    return H5Ocopy(from->file, name, to->file, name, H5P_DEFAULT, H5P_DEFAULT) < 0 ? h5_fail(ERR_IO, to, name, "cannot copy") : 0;
}

typedef struct {
    hid_t to;
    int failed;
} CopyAttrs;

static herr_t copy_attr(hid_t from, const char *name, const H5A_info_t *info, void *data)
{
    CopyAttrs *c = data;
    (void)info;
    hid_t a = H5Aopen(from, name, H5P_DEFAULT), type = H5Aget_type(a), space = H5Aget_space(a);
    size_t size = H5Tget_size(type) * (size_t)H5Sget_simple_extent_npoints(space);
    void *value = calloc(size + 1, 1);
    if (H5Aexists(c->to, name) > 0)
        H5Adelete(c->to, name);
    hid_t b = value && H5Aread(a, type, value) >= 0 ? H5Acreate2(c->to, name, type, space, H5P_DEFAULT, H5P_DEFAULT) : H5I_INVALID_HID;
    c->failed |= b < 0 || H5Awrite(b, type, value) < 0;
    if (b >= 0)
        H5Aclose(b);
    if (value && H5Tis_variable_str(type) > 0)
        H5Dvlen_reclaim(type, space, H5P_DEFAULT, value);
    free(value);
    H5Sclose(space);
    H5Tclose(type);
    H5Aclose(a);
    return 0;
}

int io_h5_copy_attrs(IoH5 *to, IoH5 *from, const char *object)
{
    H5_CALL;
    hid_t a = H5Oopen(from->file, object, H5P_DEFAULT), b = H5Oopen(to->file, object, H5P_DEFAULT);
    CopyAttrs c = {.to = b};
    herr_t bad = a < 0 || b < 0 ? -1 : H5Aiterate2(a, H5_INDEX_NAME, H5_ITER_INC, NULL, copy_attr, &c);
    int rc = bad < 0 || c.failed ? h5_fail(ERR_FORMAT, to, object, "cannot copy attributes") : 0;
    if (a >= 0)
        H5Oclose(a);
    if (b >= 0)
        H5Oclose(b);
    return rc;
}
