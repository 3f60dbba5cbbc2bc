/* Files and folders. Nothing is ever half-written under its final name. */
#ifndef IO_FILE_H
#define IO_FILE_H

#include <stddef.h>
#include <stdint.h>

/* Whole file into *out (the caller's; a 0 follows the last byte). ERR_RANGE if larger than max. */
int io_file_read(char **out, size_t *size, const char *path, size_t max);
/* temporary file in the same folder, fsync, rename, fsync of the folder. */
int io_file_write(const char *path, const void *data, size_t size);
/* A file of the same bytes. share: a hard link where the file system allows one, which takes no space; for files that nobody writes in place. */
int io_file_copy(const char *from, const char *to, int share);
int io_file_exists(const char *path); /* anything of that name */
int io_file_is_dir(const char *path);
int io_file_size(int64_t *out, const char *path);
/* Removes a file; not there is fine. */
int io_file_remove(const char *path);

/* For writers that stream or that need a path of their own (HDF5, PNG). */
typedef struct IoAtomic IoAtomic;
/* Creates the temporary file beside `path`; *out is the caller's until commit or abort. */
int io_atomic_open(IoAtomic **out, const char *path);
const char *io_atomic_path(const IoAtomic *a); /* of the temporary file; borrowed */
int io_atomic_write(IoAtomic *a, const void *data, size_t size);
/* fsync, rename over `path`, fsync of the folder. Destroys `a` in every case; on an error the old file is untouched. */
int io_atomic_commit(IoAtomic *a);
/* Removes the temporary file and destroys `a`. NULL is fine. */
void io_atomic_abort(IoAtomic *a);

/* mkdir -p. */
int io_dir_make(const char *path);
typedef struct {
    char **items;
    int count;
} IoNames;
/* Names (not paths) in a folder that end with `suffix` (NULL: all), without those that begin with '.', sorted by byte. */
int io_dir_list(IoNames *out, const char *path, const char *suffix);
void io_names_deinit(IoNames *n);
/* The files of a folder into another, which is made, and those of folders in it down to `depth` levels; shared where the file system allows it
 * (io_file_copy). left_out: 1 for a file not to copy, by the names of its folder ("" for `from` itself) and of the file; NULL: all are. */
int io_dir_copy(const char *from, const char *to, int depth, int (*left_out)(const char *dir, const char *name));

/* What was created, renamed or removed beside `path` survives a crash of the machine. Folders that cannot be synced are fine. */
int io_dir_sync(const char *path);
/* Removes temporary files that a killed run left behind. Only with the folder's lock held. */
int io_dir_remove_temps(const char *dir);

/* "a/b", or b alone when it is absolute or a is empty. *out is the caller's. */
int io_path_join(char **out, const char *a, const char *b);
/* Folder part, "." when there is none, "/" for the root. *out is the caller's. */
int io_path_dir(char **out, const char *path);
/* Part after the last '/'. Borrowed from path. */
const char *io_path_name(const char *path);
/* Extension with its dot, "" when there is none. Borrowed from path. */
const char *io_path_ext(const char *path);
/* Whether a relative path stays inside the folder it is relative to (no "..", not absolute, not empty). */
int io_path_is_inside(const char *path);

/* A folder in use by one run. */
typedef struct IoLock IoLock;
/* Locks DIR/.atelier.lock (flock; released by the system when the process ends). The folder must exist.
 * ERR_BUSY: "DIR: output folder is in use by another run (process 12 on host h)". */
int io_lock_acquire(IoLock **out, const char *dir);
/* The same together with others who share it: keeps io_lock_acquire away. */
int io_lock_share(IoLock **out, const char *dir);
void io_lock_release(IoLock *l);

#endif
