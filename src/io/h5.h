/* HDF5 files: datasets of any Dtype, strings, attributes, rows appended one by one, joins of many files.
 * Errors carry the file and object name and HDF5's own reason; HDF5 itself prints nothing. Not collective; any thread,
 * one file by one of them at a time. Equal calls give equal bytes: no time stamps are stored.
 * bf16 is stored as uint16 with the dataset attribute dtype = "bf16"; f16 as IEEE half. Little endian.
 * Object names may be paths ("a/b"); missing groups are created on writing. */
#ifndef IO_H5_H
#define IO_H5_H

#include "ops/op.h"

enum { IO_H5_MAX_DIM = 8 };

typedef struct IoH5 IoH5;

/* New file. It is written under a temporary name in the same folder and takes its own in io_h5_commit. */
int io_h5_create(IoH5 **out, const char *path);
/* Flushes, closes, fsyncs, renames to the final name and fsyncs the folder. *f becomes NULL also on error. */
int io_h5_commit(IoH5 **f);
/* New file under its own name at once, for files that grow by appending (run files of a sweep). */
int io_h5_create_direct(IoH5 **out, const char *path);
int io_h5_open(IoH5 **out, const char *path);        /* read only */
int io_h5_open_append(IoH5 **out, const char *path); /* read and write */
/* Without commit, a file made by io_h5_create is removed. NULL is fine. Returns an error when data could not be written. */
int io_h5_close(IoH5 *f);
/* All data so far to disk (H5Fflush + fsync): what was appended before survives a kill. */
int io_h5_flush(IoH5 *f);
const char *io_h5_path(const IoH5 *f); /* final name */

/* Files that survive a kill, a crash of the machine and a full disk at any moment: what is written stays in memory until
 * io_h5_save brings all of it to the disk, or nothing. Where saved bytes change they go through PATH.journal first, which io_h5_recover
 * replays; without it the file is what it was. Ordinary HDF5 files otherwise, and readable by others between two saves.
 *   io_h5_create_safe: a new file under a temporary name, which takes its own in io_h5_publish (saves, stays open) or io_h5_commit.
 *   io_h5_open_safe:   an existing file, recovered first. io_h5_close drops what was not saved. */
int io_h5_create_safe(IoH5 **out, const char *path);
int io_h5_open_safe(IoH5 **out, const char *path);
/* ERR_SPACE: the disk is full, read-only or the like; nothing is lost or damaged, and the call may be repeated (after it, nothing else
 * but this call and io_h5_close). */
int io_h5_save(IoH5 *f);
int io_h5_publish(IoH5 *f);
/* Finishes what a save had begun when its process was killed. Nobody may have the file open for writing. */
int io_h5_recover(const char *path);

/* One file written by many ranks through MPI-IO, where the program is built for it (make HDF5=openmpi); ERR_UNSUPPORTED else.
 * mpi: the address of an MPI_Comm (comm_mpi). The file is there, nobody else has it open, and all ranks see it. Collective, as are
 * io_h5_close of such a file and io_h5_write_rows_shared: each rank writes its own rows of the same dataset, or none. */
int io_h5_is_parallel(void);
int io_h5_open_shared(IoH5 **out, const char *path, const void *mpi);
int io_h5_write_rows_shared(IoH5 *f, const char *name, Dtype t, int64_t begin, int64_t rows, const void *data);

typedef struct {
    int gzip;       /* 0 none, 1..9 */
    int shuffle;    /* byte shuffle before gzip */
    int checksum;   /* fletcher32 */
    int64_t chunk_rows; /* rows per chunk; 0: about 256 KiB, 32 KiB for rows to append (a file grows by whole chunks);
                          contiguous layout when none of the above and not extensible */
} IoH5Store;

typedef struct {
    Dtype dtype;
    int ndim;                    /* 0 scalar */
    int64_t dim[IO_H5_MAX_DIM];
    int is_string;               /* variable- or fixed-length strings; dtype meaningless */
} IoH5Info;

/* ERR_NOTFOUND with the name; ERR_UNSUPPORTED for types that are no Dtype. */
int io_h5_info(IoH5 *f, const char *name, IoH5Info *info);
int io_h5_exists(IoH5 *f, const char *name); /* 1 or 0 (also 0 for unreadable) */
int io_h5_group(IoH5 *f, const char *name);  /* created where missing */
/* Names in a group ("/" for the root), sorted; free with io_h5_names_free. */
int io_h5_list(IoH5 *f, const char *group, char ***names, int *n);
void io_h5_names_free(char **names, int n);
int io_h5_delete(IoH5 *f, const char *name);

/* Whole datasets. store may be NULL (contiguous). ERR_BUSY when the name exists. */
int io_h5_write(IoH5 *f, const char *name, Dtype t, int ndim, const int64_t *dim, const void *data, const IoH5Store *store);
/* Overwrites an existing dataset of the same type and shape. */
int io_h5_update(IoH5 *f, const char *name, Dtype t, int ndim, const int64_t *dim, const void *data);
/* Reads all of it; the file's dtype must be t and the element count `count` (ERR_SHAPE otherwise). */
int io_h5_read(IoH5 *f, const char *name, Dtype t, void *data, int64_t count);
/* Rows [begin, begin + rows) along axis 0. */
int io_h5_read_rows(IoH5 *f, const char *name, Dtype t, int64_t begin, int64_t rows, void *data);
int io_h5_write_rows(IoH5 *f, const char *name, Dtype t, int64_t begin, int64_t rows, const void *data);

/* Extensible along axis 0, from `rows` rows (filled with zeros); dim[] is the shape of one row. */
int io_h5_create_rows(IoH5 *f, const char *name, Dtype t, int64_t rows, int ndim_row, const int64_t *dim_row, const IoH5Store *store);
/* Extends by `rows` and writes them. */
int io_h5_append(IoH5 *f, const char *name, Dtype t, int64_t rows, const void *data);
/* Sets the number of rows (cuts or zero-fills): numeric or string. */
int io_h5_resize(IoH5 *f, const char *name, int64_t rows);

/* Variable-length UTF-8 strings, one axis. */
int io_h5_write_strings(IoH5 *f, const char *name, const char *const *s, int64_t n);
int io_h5_create_strings(IoH5 *f, const char *name, int64_t rows);
int io_h5_append_strings(IoH5 *f, const char *name, const char *const *s, int64_t n);
int io_h5_update_strings(IoH5 *f, const char *name, int64_t begin, const char *const *s, int64_t n);
/* *s: n strings in one block, *n of them; free(*s). Fixed-length strings are read too. */
int io_h5_read_strings(IoH5 *f, const char *name, char ***s, int64_t *n);
/* One string as a scalar dataset (a config, say). *s: free(). */
int io_h5_write_string(IoH5 *f, const char *name, const char *s);
int io_h5_read_string(IoH5 *f, const char *name, char **s);

/* Attributes of a group or dataset ("/" for the file); setting replaces. */
int io_h5_set_attr_str(IoH5 *f, const char *object, const char *key, const char *value);
int io_h5_set_attr_i64(IoH5 *f, const char *object, const char *key, int64_t value);
int io_h5_set_attr_f64(IoH5 *f, const char *object, const char *key, double value);
/* *value: free(). ERR_NOTFOUND where absent, ERR_SHAPE where of another type. */
int io_h5_attr_str(IoH5 *f, const char *object, const char *key, char **value);
int io_h5_attr_i64(IoH5 *f, const char *object, const char *key, int64_t *value);
int io_h5_attr_f64(IoH5 *f, const char *object, const char *key, double *value);
int io_h5_attr_exists(IoH5 *f, const char *object, const char *key);

/* Rows [from, from + rows) of a dataset of another file. */
typedef struct {
    const char *file;
    int64_t from, rows;
} IoH5Piece;
/* Virtual dataset `name` in `f`: the pieces' rows of dataset `source` one after another along axis 0. No data is copied. Paths are stored
 * relative to f's folder where they lie in it. Numbers only; all files must agree on dtype and row shape. Reading rows of a file that
 * is not there gives zeros. */
int io_h5_join(IoH5 *f, const char *name, const char *source, const IoH5Piece *piece, int n);
/* Copies an object (a group with all in it, or a dataset with its filters) from another file. */
int io_h5_copy(IoH5 *to, IoH5 *from, const char *name);
/* Texts and whole and other numbers among the attributes of an object that is in both files. */
int io_h5_copy_attrs(IoH5 *to, IoH5 *from, const char *object);
/* Strings of one axis, each padded with zeros to the longest: unlike those of io_h5_write_strings they are compressed. */
int io_h5_write_strings_packed(IoH5 *f, const char *name, const char *const *s, int64_t n, const IoH5Store *store);

#endif
