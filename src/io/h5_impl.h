/* Shared by h5*.c. Internal to this room. */
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
    hid_t driver; /* held until the file is closed: HDF5 looks at it after its own last use; 0: HDF5's */
    const void *mpi; /* opened by io_h5_open_shared */
    int safe; /* opened by io_h5_create_safe or io_h5_open_safe */
};

/* First in every public function: stops HDF5 from printing on this thread, and keeps other threads out until the function returns where
 * HDF5 does not do so itself (parallel builds). */
#define H5_CALL int entered_ __attribute__((cleanup(h5_leave), unused)) = h5_enter()
int h5_enter(void);
void h5_leave(const int *entered);
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

/* Shape and dtype of rows to be created with `store` set in props; dim[0] rows. */
int h5_set_store(IoH5 *f, const char *name, hid_t props, size_t element, int ndim, const hsize_t *dim, int extensible, const IoH5Store *store);

/* MPI-IO for files that are opened with `access`. */
int h5_mpi_access(hid_t access, const void *mpi);

/* The file driver behind io_h5_create_safe. *id: H5Idec_ref after the file is closed. */
typedef struct H5Journal H5Journal;
int h5_journal_driver(hid_t *id, hid_t access);
int h5_journal_of(H5Journal **out, const IoH5 *f);
/* All pages to disk. published: the file has its final name `path`, so the journal is used. See io_h5_save. */
int h5_journal_save(H5Journal *j, const char *path, int published);

#endif
