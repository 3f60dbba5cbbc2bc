/* Shared by h5.c, h5_data.c, h5_text.c and h5_join.c. Internal to this room. */
#ifndef IO_H5_IMPL_H
#define IO_H5_IMPL_H

#include <hdf5.h>

#include "io/h5.h"

struct IoAtomic;

struct IoH5 {
    hid_t file;
    struct IoAtomic *atomic; /* NULL when the file has its own name already */
    char *path;
    int writable;
};

/* Stops HDF5 from printing on this thread; every public function calls it first, since the setting is per thread. */
void h5_quiet(void);
/* err_set "path: name: what: HDF5's innermost reason", and clears HDF5's stack. name may be NULL. Must directly follow the
 * call that failed: every other HDF5 call, closing included, forgets the reason. */
int h5_fail(int code, const IoH5 *f, const char *name, const char *what);
/* ERR_IO where the file is read-only. */
int h5_writable(const IoH5 *f, const char *name);
/* Creates the groups above `name`. ERR_BUSY when `name` itself exists. */
int h5_new_name(IoH5 *f, const char *name);
/* ERR_NOTFOUND when absent. Close with H5Dclose. */
int h5_open_dataset(IoH5 *f, const char *name, hid_t *out);
/* File type of a Dtype; close with H5Tclose. */
hid_t h5_type_of(Dtype t);
/* Variable-length UTF-8; close with H5Tclose. */
hid_t h5_string_type(void);
/* Creation properties without time stamps, so that equal content gives equal bytes. Close with H5Pclose. */
hid_t h5_dataset_props(void);
/* dtype and shape of an open dataset. */
int h5_describe(IoH5 *f, const char *name, hid_t set, IoH5Info *info);
/* New dataset with the bf16 mark where due. Takes props over in every case. */
int h5_make_dataset(IoH5 *f, const char *name, hid_t type, Dtype t, hid_t space, hid_t props);

#endif
