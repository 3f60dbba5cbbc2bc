#include <stdlib.h>
#include <string.h>

#include "io/h5.h"
#include "io/h5_impl.h"

static hid_t half_type(void)
{
    hid_t t = H5Tcopy(H5T_IEEE_F32LE);
    H5Tset_fields(t, 15, 10, 5, 0, 10);
    H5Tset_size(t, 2);
    H5Tset_ebias(t, 15);
    return t;
}

hid_t h5_type_of(Dtype t)
{
    switch (t) {
    case DTYPE_F32: return H5Tcopy(H5T_IEEE_F32LE);
    case DTYPE_F64: return H5Tcopy(H5T_IEEE_F64LE);
    case DTYPE_F16: return half_type();
    case DTYPE_BF16: return H5Tcopy(H5T_STD_U16LE);
    case DTYPE_I32: return H5Tcopy(H5T_STD_I32LE);
    case DTYPE_I64: return H5Tcopy(H5T_STD_I64LE);
    case DTYPE_U8: return H5Tcopy(H5T_STD_U8LE);
    default: return H5I_INVALID_HID;
    }
}

hid_t h5_dataset_props(void)
{
    hid_t p = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(p, 0);
    return p;
}

int h5_open_dataset(IoH5 *f, const char *name, hid_t *out)
{
    if (!io_h5_exists(f, name))
        return err_set(ERR_NOTFOUND, "%s: %s: no such dataset", f->path, name);
    *out = H5Dopen2(f->file, name, H5P_DEFAULT);
    return *out < 0 ? h5_fail(ERR_FORMAT, f, name, "cannot open dataset") : 0;
}

/* Marked by attribute dtype = "bf16". */
static int is_bf16(hid_t set)
{
    char text[8] = "";
    char *value = NULL;
    if (H5Aexists(set, "dtype") <= 0)
        return 0;
    hid_t a = H5Aopen(set, "dtype", H5P_DEFAULT), t = H5Aget_type(a), m = h5_string_type();
    int yes = 0;
    if (H5Tget_class(t) == H5T_STRING && H5Tis_variable_str(t) > 0 && H5Aread(a, m, &value) >= 0 && value) {
        yes = strcmp(value, "bf16") == 0;
        H5free_memory(value);
    } else if (H5Tget_class(t) == H5T_STRING && H5Tget_size(t) < sizeof text && H5Aread(a, t, text) >= 0) {
        yes = strcmp(text, "bf16") == 0;
    }
    H5Tclose(m);
    H5Tclose(t);
    H5Aclose(a);
    return yes;
}

static int dtype_from(hid_t set, hid_t type, Dtype *out)
{
    size_t size = H5Tget_size(type);
    int is_signed = H5Tget_sign(type) == H5T_SGN_2;
    switch (H5Tget_class(type)) {
    case H5T_FLOAT:
        *out = size == 8 ? DTYPE_F64 : size == 4 ? DTYPE_F32 : DTYPE_F16;
        return size == 8 || size == 4 || size == 2;
    case H5T_INTEGER:
        *out = size == 1 ? DTYPE_U8 : size == 4 ? DTYPE_I32 : size == 8 ? DTYPE_I64 : DTYPE_BF16;
        return size == 1 ? !is_signed : size == 2 ? !is_signed && is_bf16(set) : (size == 4 || size == 8) && is_signed;
    default:
        return 0;
    }
}

static int describe_shape(IoH5 *f, const char *name, hid_t space, IoH5Info *info)
{
    hsize_t dim[H5S_MAX_RANK];
    int n = H5Sget_simple_extent_ndims(space);
    if (n < 0 || n > IO_H5_MAX_DIM || H5Sget_simple_extent_dims(space, dim, NULL) < 0)
        return h5_fail(ERR_UNSUPPORTED, f, name, "more than 8 dimensions, or no shape");
    info->ndim = n;
    int64_t count = 1;
    for (int i = 0; i < n; i++) {
        info->dim[i] = (int64_t)dim[i];
        if (dim[i] > INT64_MAX / 16 || (dim[i] && count > INT64_MAX / 16 / (int64_t)dim[i]))
            return err_set(ERR_FORMAT, "%s: %s: impossible size", f->path, name);
        count *= dim[i] ? (int64_t)dim[i] : 1;
    }
    return 0;
}

int h5_describe(IoH5 *f, const char *name, hid_t set, IoH5Info *info)
{
    memset(info, 0, sizeof *info);
    hid_t type = H5Dget_type(set), space = H5Dget_space(set);
    int rc = type < 0 || space < 0 ? h5_fail(ERR_FORMAT, f, name, "cannot read type") : describe_shape(f, name, space, info);
    if (rc == 0) {
        info->is_string = H5Tget_class(type) == H5T_STRING;
        if (!info->is_string && !dtype_from(set, type, &info->dtype))
            rc = err_set(ERR_UNSUPPORTED, "%s: %s: type is none of f64, f32, f16, bf16, i64, i32, u8 or string", f->path, name);
    }
    if (type >= 0)
        H5Tclose(type);
    if (space >= 0)
        H5Sclose(space);
    return rc;
}

int io_h5_info(IoH5 *f, const char *name, IoH5Info *info)
{
    hid_t set = H5I_INVALID_HID;
    H5_CALL;
    memset(info, 0, sizeof *info);
    TRY(h5_open_dataset(f, name, &set));
    int rc = h5_describe(f, name, set, info);
    H5Dclose(set);
    return rc;
}

static int mark_bf16(IoH5 *f, const char *name)
{
    return io_h5_set_attr_str(f, name, "dtype", "bf16");
}

int h5_make_dataset(IoH5 *f, const char *name, hid_t type, Dtype t, hid_t space, hid_t props)
{
    hid_t set = H5Dcreate2(f->file, name, type, space, H5P_DEFAULT, props, H5P_DEFAULT);
    int rc = set < 0 ? h5_fail(ERR_IO, f, name, "cannot create dataset") : 0;
    H5Pclose(props);
    if (rc < 0)
        return rc;
    H5Dclose(set);
    return t == DTYPE_BF16 ? mark_bf16(f, name) : 0;
}

int h5_set_store(IoH5 *f, const char *name, hid_t props, size_t element, int ndim, const hsize_t *dim, int extensible, const IoH5Store *store)
{
    static const IoH5Store none = {0};
    const IoH5Store *s = store ? store : &none;
    hsize_t chunk[IO_H5_MAX_DIM], row = 1;
    if (s->gzip < 0 || s->gzip > 9 || s->chunk_rows < 0)
        return err_set(ERR_RANGE, "%s: %s: gzip %d, chunk_rows %lld", f->path, name, s->gzip, (long long)s->chunk_rows);
    int chunked = extensible || s->gzip || s->shuffle || s->checksum || s->chunk_rows;
    for (int i = 1; i < ndim; i++) {
        chunk[i] = dim[i];
        row *= dim[i];
    }
    if (!chunked || ndim == 0 || row == 0 || (!extensible && dim[0] == 0))
        return 0; /* contiguous: nothing to chunk */
    hsize_t bytes = row * element, rows = s->chunk_rows ? (hsize_t)s->chunk_rows : (extensible ? 32u << 10 : 256u << 10) / bytes;
    rows = rows < 1 ? 1 : rows;
    if (!extensible && rows > dim[0])
        rows = dim[0];
    if (bytes > 0xFFFFFFFFu / rows)
        return err_set(ERR_RANGE, "%s: %s: chunks of %llu bytes (HDF5 allows 4 GiB)", f->path, name, (unsigned long long)(bytes * rows));
    chunk[0] = rows;
    H5Pset_chunk(props, ndim, chunk);
    if (s->shuffle)
        H5Pset_shuffle(props);
    if (s->gzip)
        H5Pset_deflate(props, (unsigned)s->gzip);
    if (s->checksum)
        H5Pset_fletcher32(props);
    return 0;
}

static int check_shape(IoH5 *f, const char *name, Dtype t, int ndim, const int64_t *dim, hsize_t *out)
{
    if (ndim < 0 || ndim > IO_H5_MAX_DIM || (unsigned)t >= DTYPE_COUNT)
        return err_set(ERR_RANGE, "%s: %s: %d dimensions: expected 0..%d", f->path, name, ndim, (int)IO_H5_MAX_DIM);
    for (int i = 0; i < ndim; i++) {
        if (dim[i] < 0)
            return err_set(ERR_RANGE, "%s: %s: dimension %d is %lld", f->path, name, i, (long long)dim[i]);
        out[i] = (hsize_t)dim[i];
    }
    return 0;
}

static int create_dataset(IoH5 *f, const char *name, Dtype t, int ndim, const hsize_t *dim, int extensible, const IoH5Store *store)
{
    hsize_t max[IO_H5_MAX_DIM];
    TRY(h5_new_name(f, name));
    for (int i = 0; i < ndim; i++)
        max[i] = extensible && i == 0 ? H5S_UNLIMITED : dim[i];
    hid_t props = h5_dataset_props();
    int rc = h5_set_store(f, name, props, dtype_size(t), ndim, dim, extensible, store);
    if (rc < 0) {
        H5Pclose(props);
        return rc;
    }
    hid_t type = h5_type_of(t), space = ndim ? H5Screate_simple(ndim, dim, max) : H5Screate(H5S_SCALAR);
    rc = h5_make_dataset(f, name, type, t, space, props);
    H5Sclose(space);
    H5Tclose(type);
    return rc;
}

/* Moves rows [begin, begin + rows) between memory and file; ndim 0 moves the scalar. */
static int transfer(IoH5 *f, const char *name, hid_t set, const IoH5Info *info, int64_t begin, int64_t rows, void *data, int writing)
{
    hsize_t start[IO_H5_MAX_DIM] = {0}, count[IO_H5_MAX_DIM] = {0};
    if (info->ndim && (begin < 0 || rows < 0 || begin > info->dim[0] || rows > info->dim[0] - begin))
        return err_set(ERR_RANGE, "%s: %s: rows %lld..%lld of %lld", f->path, name, (long long)begin, (long long)(begin + rows),
                       (long long)info->dim[0]);
    int64_t total = info->ndim ? rows : 1;
    for (int i = 0; i < info->ndim; i++) {
        count[i] = (hsize_t)(i ? info->dim[i] : rows);
        total *= i ? info->dim[i] : 1;
    }
    if (total == 0)
        return 0;
    start[0] = (hsize_t)begin;
    hid_t type = h5_type_of(info->dtype), space = H5Dget_space(set), mem = H5S_ALL;
    herr_t bad = 0;
    if (info->ndim) {
        bad = H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL);
        mem = H5Screate_simple(info->ndim, count, NULL);
    }
    if (bad >= 0)
        bad = writing ? H5Dwrite(set, type, mem, space, H5P_DEFAULT, data) : H5Dread(set, type, mem, space, H5P_DEFAULT, data);
    int rc = bad < 0 ? h5_fail(writing ? ERR_IO : ERR_FORMAT, f, name, writing ? "cannot write" : "cannot read") : 0;
    if (mem != H5S_ALL)
        H5Sclose(mem);
    H5Sclose(space);
    H5Tclose(type);
    return rc;
}

/* Opens a dataset whose dtype must be t. */
static int open_typed(IoH5 *f, const char *name, Dtype t, hid_t *set, IoH5Info *info)
{
    TRY(h5_open_dataset(f, name, set));
    int rc = h5_describe(f, name, *set, info);
    if (rc == 0 && (info->is_string || info->dtype != t))
        rc = err_set(ERR_SHAPE, "%s: %s: is %s, expected %s", f->path, name, info->is_string ? "string" : dtype_name(info->dtype),
                     dtype_name(t));
    if (rc < 0)
        H5Dclose(*set);
    return rc;
}

static int move_rows(IoH5 *f, const char *name, Dtype t, int64_t begin, int64_t rows, void *data, int writing)
{
    hid_t set = H5I_INVALID_HID;
    IoH5Info info;
    TRY(open_typed(f, name, t, &set, &info));
    int rc = transfer(f, name, set, &info, begin, rows, data, writing);
    H5Dclose(set);
    return rc;
}

static int64_t count_of(const IoH5Info *info)
{
    int64_t n = 1;
    for (int i = 0; i < info->ndim; i++)
        n *= info->dim[i];
    return n;
}

int io_h5_write(IoH5 *f, const char *name, Dtype t, int ndim, const int64_t *dim, const void *data, const IoH5Store *store)
{
    hsize_t d[IO_H5_MAX_DIM];
    H5_CALL;
    TRY(check_shape(f, name, t, ndim, dim, d));
    TRY(create_dataset(f, name, t, ndim, d, 0, store));
    return move_rows(f, name, t, 0, ndim ? dim[0] : 1, (void *)(uintptr_t)data, 1);
}

int io_h5_update(IoH5 *f, const char *name, Dtype t, int ndim, const int64_t *dim, const void *data)
{
    hid_t set = H5I_INVALID_HID;
    IoH5Info info;
    H5_CALL;
    TRY(h5_writable(f, name));
    TRY(open_typed(f, name, t, &set, &info));
    int same = info.ndim == ndim, rc;
    for (int i = 0; same && i < ndim; i++)
        same = info.dim[i] == dim[i];
    if (same)
        rc = transfer(f, name, set, &info, 0, ndim ? dim[0] : 1, (void *)(uintptr_t)data, 1);
    else
        rc = err_set(ERR_SHAPE, "%s: %s: has another shape", f->path, name);
    H5Dclose(set);
    return rc;
}

int io_h5_read(IoH5 *f, const char *name, Dtype t, void *data, int64_t count)
{
    hid_t set = H5I_INVALID_HID;
    IoH5Info info;
    H5_CALL;
    TRY(open_typed(f, name, t, &set, &info));
    int rc = count_of(&info) == count ? transfer(f, name, set, &info, 0, info.ndim ? info.dim[0] : 1, data, 0)
                                      : err_set(ERR_SHAPE, "%s: %s: has %lld elements, expected %lld", f->path, name,
                                                (long long)count_of(&info), (long long)count);
    H5Dclose(set);
    return rc;
}

int io_h5_read_rows(IoH5 *f, const char *name, Dtype t, int64_t begin, int64_t rows, void *data)
{
    H5_CALL;
    return move_rows(f, name, t, begin, rows, data, 0);
}

int io_h5_write_rows(IoH5 *f, const char *name, Dtype t, int64_t begin, int64_t rows, const void *data)
{
    H5_CALL;
    TRY(h5_writable(f, name));
    return move_rows(f, name, t, begin, rows, (void *)(uintptr_t)data, 1);
}

int io_h5_create_rows(IoH5 *f, const char *name, Dtype t, int64_t rows, int ndim_row, const int64_t *dim_row, const IoH5Store *store)
{
    hsize_t d[IO_H5_MAX_DIM];
    int64_t dim[IO_H5_MAX_DIM];
    H5_CALL;
    if (ndim_row < 0 || ndim_row >= IO_H5_MAX_DIM)
        return err_set(ERR_RANGE, "%s: %s: rows of %d dimensions: expected 0..%d", f->path, name, ndim_row, (int)IO_H5_MAX_DIM - 1);
    dim[0] = rows;
    for (int i = 0; i < ndim_row; i++) {
        if (dim_row[i] < 1)
            return err_set(ERR_RANGE, "%s: %s: row dimension %d is %lld", f->path, name, i, (long long)dim_row[i]);
        dim[i + 1] = dim_row[i];
    }
    TRY(check_shape(f, name, t, ndim_row + 1, dim, d));
    return create_dataset(f, name, t, ndim_row + 1, d, 1, store);
}

static int set_rows(IoH5 *f, const char *name, hid_t set, IoH5Info *info, int64_t rows)
{
    hsize_t d[IO_H5_MAX_DIM];
    if (info->ndim < 1 || rows < 0)
        return err_set(ERR_RANGE, "%s: %s: cannot have %lld rows", f->path, name, (long long)rows);
    for (int i = 0; i < info->ndim; i++)
        d[i] = (hsize_t)info->dim[i];
    d[0] = (hsize_t)rows;
    if (H5Dset_extent(set, d) < 0)
        return h5_fail(ERR_IO, f, name, "cannot change the number of rows");
    info->dim[0] = rows;
    return 0;
}

int io_h5_append(IoH5 *f, const char *name, Dtype t, int64_t rows, const void *data)
{
    hid_t set = H5I_INVALID_HID;
    IoH5Info info;
    H5_CALL;
    TRY(h5_writable(f, name));
    TRY(open_typed(f, name, t, &set, &info));
    int64_t at = info.ndim ? info.dim[0] : 0;
    int rc = rows < 0 ? err_set(ERR_RANGE, "%s: %s: appending %lld rows", f->path, name, (long long)rows)
                      : set_rows(f, name, set, &info, at + rows);
    if (rc == 0)
        rc = transfer(f, name, set, &info, at, rows, (void *)(uintptr_t)data, 1);
    H5Dclose(set);
    return rc;
}

int io_h5_resize(IoH5 *f, const char *name, int64_t rows)
{
    hid_t set = H5I_INVALID_HID;
    IoH5Info info;
    H5_CALL;
    TRY(h5_writable(f, name));
    TRY(h5_open_dataset(f, name, &set));
    int rc = h5_describe(f, name, set, &info);
    if (rc == 0)
        rc = set_rows(f, name, set, &info, rows);
    H5Dclose(set);
    return rc;
}
