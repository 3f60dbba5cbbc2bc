#include <stdlib.h>
#include <string.h>

#include "io/h5.h"
#include "io/h5_impl.h"

hid_t h5_string_type(void)
{
    hid_t t = H5Tcopy(H5T_C_S1);
    H5Tset_size(t, H5T_VARIABLE);
    H5Tset_cset(t, H5T_CSET_UTF8);
    return t;
}

/* ---- datasets ---- */

static int create_strings(IoH5 *f, const char *name, int ndim, int64_t rows)
{
    TRY(h5_new_name(f, name));
    if (rows < 0)
        return err_set(ERR_RANGE, "%s: %s: %lld rows", f->path, name, (long long)rows);
    hsize_t dim = (hsize_t)rows, max = H5S_UNLIMITED, chunk = 256;
    hid_t props = h5_dataset_props(), type = h5_string_type();
    if (ndim)
        H5Pset_chunk(props, 1, &chunk);
    hid_t space = ndim ? H5Screate_simple(1, &dim, &max) : H5Screate(H5S_SCALAR);
    int rc = h5_make_dataset(f, name, type, DTYPE_U8, space, props);
    H5Sclose(space);
    H5Tclose(type);
    return rc;
}

static int open_strings(IoH5 *f, const char *name, hid_t *set, IoH5Info *info)
{
    TRY(h5_open_dataset(f, name, set));
    int rc = h5_describe(f, name, *set, info);
    if (rc == 0 && (!info->is_string || info->ndim > 1))
        rc = err_set(ERR_SHAPE, "%s: %s: expected strings of one dimension", f->path, name);
    if (rc < 0)
        H5Dclose(*set);
    return rc;
}

static int put_strings(IoH5 *f, const char *name, hid_t set, int ndim, int64_t begin, const char *const *s, int64_t n)
{
    hsize_t start = (hsize_t)begin, count = (hsize_t)n;
    if (n == 0)
        return 0;
    hid_t type = h5_string_type(), space = H5Dget_space(set), mem = ndim ? H5Screate_simple(1, &count, NULL) : H5S_ALL;
    herr_t bad = ndim ? H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, NULL, &count, NULL) : 0;
    if (bad >= 0)
        bad = H5Dwrite(set, type, mem, space, H5P_DEFAULT, s);
    int rc = bad < 0 ? h5_fail(ERR_IO, f, name, "cannot write") : 0;
    if (ndim)
        H5Sclose(mem);
    H5Sclose(space);
    H5Tclose(type);
    return rc;
}

int io_h5_create_strings(IoH5 *f, const char *name, int64_t rows)
{
    H5_CALL;
    return create_strings(f, name, 1, rows);
}

int io_h5_update_strings(IoH5 *f, const char *name, int64_t begin, const char *const *s, int64_t n)
{
    hid_t set = H5I_INVALID_HID;
    IoH5Info info;
    H5_CALL;
    TRY(h5_writable(f, name));
    TRY(open_strings(f, name, &set, &info));
    int64_t rows = info.ndim ? info.dim[0] : 1;
    int rc = begin < 0 || n < 0 || begin > rows || n > rows - begin
                 ? err_set(ERR_RANGE, "%s: %s: rows %lld..%lld of %lld", f->path, name, (long long)begin, (long long)(begin + n),
                           (long long)rows)
                 : put_strings(f, name, set, info.ndim, begin, s, n);
    H5Dclose(set);
    return rc;
}

int io_h5_write_strings(IoH5 *f, const char *name, const char *const *s, int64_t n)
{
    H5_CALL;
    TRY(create_strings(f, name, 1, n));
    return io_h5_update_strings(f, name, 0, s, n);
}

int io_h5_append_strings(IoH5 *f, const char *name, const char *const *s, int64_t n)
{
    IoH5Info info;
    TRY(io_h5_info(f, name, &info));
    int64_t at = info.ndim ? info.dim[0] : 1;
    TRY(io_h5_resize(f, name, at + n));
    return io_h5_update_strings(f, name, at, s, n);
}

/* Rows [begin, begin + n) as blocks of `width` bytes. */
static int put_packed(IoH5 *f, const char *name, hid_t set, hid_t type, size_t width, char *buf, int64_t begin, const char *const *s,
                      int64_t n)
{
    hsize_t start = (hsize_t)begin, count = (hsize_t)n;
    memset(buf, 0, (size_t)n * width);
    for (int64_t i = 0; i < n; i++)
        memcpy(buf + (size_t)i * width, s[i], strlen(s[i]));
    hid_t space = H5Dget_space(set), mem = H5Screate_simple(1, &count, NULL);
    herr_t bad = H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, NULL, &count, NULL);
    if (bad >= 0)
        bad = H5Dwrite(set, type, mem, space, H5P_DEFAULT, buf);
    int rc = bad < 0 ? h5_fail(ERR_IO, f, name, "cannot write") : 0;
    H5Sclose(mem);
    H5Sclose(space);
    return rc;
}

int io_h5_write_strings_packed(IoH5 *f, const char *name, const char *const *s, int64_t n, const IoH5Store *store)
{
    size_t width = 1;
    hsize_t dim = (hsize_t)n;
    hid_t set = H5I_INVALID_HID;
    H5_CALL;
    TRY(h5_new_name(f, name));
    for (int64_t i = 0; i < n; i++)
        width = strlen(s[i]) > width ? strlen(s[i]) : width;
    int64_t block = (int64_t)((1u << 22) / width) + 1; /* rows at a time */
    char *buf = malloc((size_t)block * width);
    hid_t props = h5_dataset_props(), type = H5Tcopy(H5T_C_S1), space = H5Screate_simple(1, &dim, NULL);
    H5Tset_size(type, width);
    H5Tset_cset(type, H5T_CSET_UTF8);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    int rc = buf ? h5_set_store(f, name, props, width, 1, &dim, 0, store) : err_set(ERR_NOMEM, "%s: out of memory", f->path);
    if (rc == 0)
        rc = h5_make_dataset(f, name, type, DTYPE_U8, space, props);
    else
        H5Pclose(props);
    if (rc == 0)
        rc = h5_open_dataset(f, name, &set);
    for (int64_t at = 0; at < n && rc == 0; at += block)
        rc = put_packed(f, name, set, type, width, buf, at, s + at, n - at < block ? n - at : block);
    if (set >= 0)
        H5Dclose(set);
    H5Sclose(space);
    H5Tclose(type);
    free(buf);
    return rc;
}

int io_h5_write_string(IoH5 *f, const char *name, const char *s)
{
    H5_CALL;
    TRY(create_strings(f, name, 0, 1));
    return io_h5_update_strings(f, name, 0, &s, 1);
}

/* Pointers and characters in one block. len(i) tells each string's length without its 0. */
static char **pack(char *const *src, const char *fixed, size_t width, size_t n)
{
    size_t bytes = (n + 1) * sizeof(char *);
    for (size_t i = 0; i < n; i++)
        bytes += (src ? src[i] ? strlen(src[i]) : 0 : width) + 1;
    char **out = malloc(bytes), *at = (char *)(out + n + 1);
    if (!out)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        const char *s = src ? src[i] ? src[i] : "" : fixed + i * width;
        size_t len = src ? strlen(s) : strnlen(s, width);
        out[i] = memcpy(at, s, len);
        at[len] = 0;
        at += len + 1;
    }
    out[n] = NULL;
    return out;
}

static int get_fixed(IoH5 *f, const char *name, hid_t set, hid_t type, size_t n, char ***s)
{
    size_t width = H5Tget_size(type);
    if (!width || n > SIZE_MAX / 4 / width)
        return err_set(ERR_FORMAT, "%s: %s: impossible string size", f->path, name);
    char *buf = calloc(n + 1, width);
    if (!buf)
        return err_set(ERR_NOMEM, "%s: %s: out of memory", f->path, name);
    int rc = H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, buf) < 0 ? h5_fail(ERR_FORMAT, f, name, "cannot read") : 0;
    if (rc == 0 && !(*s = pack(NULL, buf, width, n)))
        rc = err_set(ERR_NOMEM, "%s: %s: out of memory", f->path, name);
    free(buf);
    return rc;
}

static int get_variable(IoH5 *f, const char *name, hid_t set, size_t n, char ***s)
{
    char **buf = calloc(n + 1, sizeof *buf);
    if (!buf)
        return err_set(ERR_NOMEM, "%s: %s: out of memory", f->path, name);
    hid_t type = h5_string_type(), space = H5Dget_space(set);
    hid_t have = H5Dget_type(set);
    H5Tset_cset(type, H5Tget_cset(have));
    int rc = H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, buf) < 0 ? h5_fail(ERR_FORMAT, f, name, "cannot read") : 0;
    if (rc == 0 && !(*s = pack(buf, NULL, 0, n)))
        rc = err_set(ERR_NOMEM, "%s: %s: out of memory", f->path, name);
    H5Dvlen_reclaim(type, space, H5P_DEFAULT, buf);
    H5Tclose(have);
    H5Tclose(type);
    H5Sclose(space);
    free(buf);
    return rc;
}

int io_h5_read_strings(IoH5 *f, const char *name, char ***s, int64_t *n)
{
    hid_t set = H5I_INVALID_HID;
    IoH5Info info;
    H5_CALL;
    *s = NULL;
    *n = 0;
    TRY(open_strings(f, name, &set, &info));
    size_t count = info.ndim ? (size_t)info.dim[0] : 1;
    hid_t type = H5Dget_type(set);
    int rc = H5Tis_variable_str(type) > 0 ? get_variable(f, name, set, count, s) : get_fixed(f, name, set, type, count, s);
    H5Tclose(type);
    H5Dclose(set);
    if (rc == 0)
        *n = (int64_t)count;
    return rc;
}

int io_h5_read_string(IoH5 *f, const char *name, char **s)
{
    char **all = NULL;
    int64_t n = 0;
    *s = NULL;
    TRY(io_h5_read_strings(f, name, &all, &n));
    int rc = n == 1 ? 0 : err_set(ERR_SHAPE, "%s: %s: has %lld strings, expected one", f->path, name, (long long)n);
    if (rc == 0 && !(*s = strdup(all[0])))
        rc = err_set(ERR_NOMEM, "%s: %s: out of memory", f->path, name);
    free(all);
    return rc;
}

/* ---- attributes ---- */

static int open_object(IoH5 *f, const char *object, hid_t *out)
{
    if (!io_h5_exists(f, object))
        return err_set(ERR_NOTFOUND, "%s: %s: no such object", f->path, object);
    *out = H5Oopen(f->file, object, H5P_DEFAULT);
    return *out < 0 ? h5_fail(ERR_FORMAT, f, object, "cannot open") : 0;
}

static int set_attr(IoH5 *f, const char *object, const char *key, hid_t type, const void *value)
{
    hid_t o = H5I_INVALID_HID, a = H5I_INVALID_HID;
    TRY(h5_writable(f, object));
    TRY(open_object(f, object, &o));
    hid_t space = H5Screate(H5S_SCALAR);
    herr_t bad = 0;
    if (H5Aexists(o, key) > 0)
        bad = H5Adelete(o, key);
    if (bad >= 0)
        bad = (a = H5Acreate2(o, key, type, space, H5P_DEFAULT, H5P_DEFAULT)) < 0 ? -1 : H5Awrite(a, type, value);
    int rc = bad < 0 ? h5_fail(ERR_IO, f, key, "cannot write attribute") : 0;
    if (a >= 0)
        H5Aclose(a);
    H5Sclose(space);
    H5Oclose(o);
    return rc;
}

int io_h5_set_attr_str(IoH5 *f, const char *object, const char *key, const char *value)
{
    H5_CALL;
    hid_t t = h5_string_type();
    int rc = set_attr(f, object, key, t, &value);
    H5Tclose(t);
    return rc;
}

int io_h5_set_attr_i64(IoH5 *f, const char *object, const char *key, int64_t value)
{
    H5_CALL;
    return set_attr(f, object, key, H5T_STD_I64LE, &value);
}

int io_h5_set_attr_f64(IoH5 *f, const char *object, const char *key, double value)
{
    H5_CALL;
    return set_attr(f, object, key, H5T_IEEE_F64LE, &value);
}

int io_h5_attr_exists(IoH5 *f, const char *object, const char *key)
{
    hid_t o = H5I_INVALID_HID;
    H5_CALL;
    if (open_object(f, object, &o) < 0)
        return 0;
    int yes = H5Aexists(o, key) > 0;
    H5Oclose(o);
    return yes;
}

/* Opens a scalar attribute. */
static int open_attr(IoH5 *f, const char *object, const char *key, hid_t *a, hid_t *type)
{
    hid_t o = H5I_INVALID_HID;
    TRY(open_object(f, object, &o));
    int rc = 0;
    if (H5Aexists(o, key) <= 0)
        rc = err_set(ERR_NOTFOUND, "%s: %s: no attribute \"%s\"", f->path, object, key);
    else if ((*a = H5Aopen(o, key, H5P_DEFAULT)) < 0)
        rc = h5_fail(ERR_FORMAT, f, key, "cannot open attribute");
    H5Oclose(o);
    TRY(rc);
    hid_t space = H5Aget_space(*a);
    int single = H5Sget_simple_extent_npoints(space) == 1;
    H5Sclose(space);
    *type = H5Aget_type(*a);
    if (single && *type >= 0)
        return 0;
    H5Aclose(*a);
    if (*type >= 0)
        H5Tclose(*type);
    return err_set(ERR_SHAPE, "%s: %s: attribute \"%s\" is not a single value", f->path, object, key);
}

static int wrong_type(const IoH5 *f, const char *object, const char *key, const char *want)
{
    return err_set(ERR_SHAPE, "%s: %s: attribute \"%s\" is no %s", f->path, object, key, want);
}

static int get_number(IoH5 *f, const char *object, const char *key, int whole, hid_t as, void *value)
{
    hid_t a = H5I_INVALID_HID, type = H5I_INVALID_HID;
    H5_CALL;
    TRY(open_attr(f, object, key, &a, &type));
    H5T_class_t c = H5Tget_class(type);
    int rc = c == H5T_INTEGER || (!whole && c == H5T_FLOAT) ? 0 : wrong_type(f, object, key, whole ? "integer" : "number");
    if (rc == 0 && H5Aread(a, as, value) < 0)
        rc = h5_fail(ERR_FORMAT, f, key, "cannot read attribute");
    H5Tclose(type);
    H5Aclose(a);
    return rc;
}

int io_h5_attr_i64(IoH5 *f, const char *object, const char *key, int64_t *value)
{
    return get_number(f, object, key, 1, H5T_NATIVE_INT64, value);
}

int io_h5_attr_f64(IoH5 *f, const char *object, const char *key, double *value)
{
    return get_number(f, object, key, 0, H5T_NATIVE_DOUBLE, value);
}

static int read_attr_string(hid_t a, hid_t type, char **value)
{
    if (H5Tis_variable_str(type) > 0) {
        char *s = NULL;
        hid_t t = h5_string_type();
        H5Tset_cset(t, H5Tget_cset(type));
        herr_t bad = H5Aread(a, t, &s);
        H5Tclose(t);
        *value = bad >= 0 ? strdup(s ? s : "") : NULL;
        if (bad >= 0)
            H5free_memory(s);
        return (int)bad;
    }
    size_t n = H5Tget_size(type);
    *value = calloc(n + 1, 1);
    return *value ? (int)H5Aread(a, type, *value) : 0;
}

int io_h5_attr_str(IoH5 *f, const char *object, const char *key, char **value)
{
    hid_t a = H5I_INVALID_HID, type = H5I_INVALID_HID;
    H5_CALL;
    *value = NULL;
    TRY(open_attr(f, object, key, &a, &type));
    int rc = H5Tget_class(type) == H5T_STRING ? 0 : wrong_type(f, object, key, "string");
    if (rc == 0 && read_attr_string(a, type, value) < 0)
        rc = h5_fail(ERR_FORMAT, f, key, "cannot read attribute");
    else if (rc == 0 && !*value)
        rc = err_set(ERR_NOMEM, "%s: out of memory", f->path);
    if (rc < 0) {
        free(*value);
        *value = NULL;
    }
    H5Tclose(type);
    H5Aclose(a);
    return rc;
}
