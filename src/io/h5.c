#include "io/h5.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/file.h"
#include "io/h5_impl.h"

#ifndef H5_HAVE_THREADSAFE
static pthread_mutex_t one = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
#endif

int h5_enter(void)
{
#ifndef H5_HAVE_THREADSAFE
    pthread_mutex_lock(&one);
#endif
    /* Files are closed by their owners. HDF5's own cleanup at exit crashes on a file that could not be flushed (full disk). Only
     * the first call, before the library is initialised, has an effect. */
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    return 1;
}

void h5_leave(const int *entered)
{
    (void)entered;
#ifndef H5_HAVE_THREADSAFE
    pthread_mutex_unlock(&one);
#endif
}

typedef struct {
    char text[256];
} Reason;

static herr_t take_reason(unsigned n, const H5E_error2_t *e, void *data)
{
    Reason *r = data;
    if (n != 0 || !e->desc)
        return 0;
    const char *system = strstr(e->desc, "error message = '"); /* of a long text about buffers and sizes */
    if (system)
        snprintf(r->text, sizeof r->text, ": %.*s", (int)strcspn(system + 17, "'"), system + 17);
    else
        snprintf(r->text, sizeof r->text, ": %s", e->desc);
    return 0;
}

int h5_fail(int code, const IoH5 *f, const char *name, const char *what)
{
    Reason r = {""};
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_reason, &r);
    H5Eclear2(H5E_DEFAULT);
    if (code == ERR_FORMAT && strstr(r.text, "unable to lock"))
        code = ERR_BUSY;
    return err_set(code, "%s: %s%s%s%s", f->path, name ? name : "", name ? ": " : "", what, r.text);
}

int h5_writable(const IoH5 *f, const char *name)
{
    return f->writable ? 0 : err_set(ERR_IO, "%s: %s: file is open for reading only", f->path, name);
}

static hid_t access_props(IoH5 *f)
{
    hid_t p = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(p, H5F_LIBVER_V18, H5F_LIBVER_LATEST);
    H5Pset_fclose_degree(p, H5F_CLOSE_STRONG);
    H5Pset_file_locking(p, 1, 1); /* file systems without locks are fine */
    if (f->mpi && h5_mpi_access(p, f->mpi) < 0) {
        H5Pclose(p);
        return H5I_INVALID_HID;
    }
    if (f->safe && h5_journal_driver(&f->driver, p) < 0) {
        H5Pclose(p);
        return H5I_INVALID_HID; /* creating or opening says so */
    }
    return p;
}

static int make(IoH5 **out, const char *path)
{
    *out = NULL;
    IoH5 *f = calloc(1, sizeof *f);
    if (f)
        f->path = strdup(path);
    if (!f || !f->path) {
        free(f);
        return err_set(ERR_NOMEM, "%s: out of memory", path);
    }
    f->file = H5I_INVALID_HID;
    *out = f;
    return 0;
}

static void discard(IoH5 *f)
{
    if (f->driver > 0)
        H5Idec_ref(f->driver);
    io_atomic_abort(f->atomic);
    free(f->path);
    free(f);
}

static int create_at(IoH5 *f, const char *path)
{
    hid_t props = access_props(f), file_props = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_obj_track_times(file_props, 0);
    f->file = H5Fcreate(path, H5F_ACC_TRUNC, file_props, props);
    f->writable = 1;
    int rc = f->file < 0 ? h5_fail(ERR_IO, f, NULL, "cannot create HDF5 file") : 0;
    H5Pclose(props);
    H5Pclose(file_props);
    return rc;
}

static int create_temp(IoH5 **out, const char *path, int safe)
{
    IoH5 *f = NULL;
    H5_CALL;
    *out = NULL;
    TRY(make(&f, path));
    f->safe = safe;
    int rc = io_atomic_open(&f->atomic, path);
    if (rc == 0)
        rc = create_at(f, io_atomic_path(f->atomic));
    if (rc < 0)
        discard(f);
    else
        *out = f;
    return rc;
}

int io_h5_create(IoH5 **out, const char *path) { return create_temp(out, path, 0); }
int io_h5_create_safe(IoH5 **out, const char *path) { return create_temp(out, path, 1); }

int io_h5_create_direct(IoH5 **out, const char *path)
{
    IoH5 *f = NULL;
    H5_CALL;
    *out = NULL;
    TRY(make(&f, path));
    int rc = create_at(f, path);
    if (rc < 0)
        discard(f);
    else
        *out = f;
    return rc;
}

static int open_at(IoH5 **out, const char *path, int writable, int safe, const void *mpi)
{
    IoH5 *f = NULL;
    H5_CALL;
    *out = NULL;
    int fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (fd < 0)
        return err_errno("%s", path);
    close(fd);
    TRY(make(&f, path));
    htri_t is = H5Fis_hdf5(path);
    if (is <= 0) {
        H5Eclear2(H5E_DEFAULT);
        discard(f);
        return err_set(ERR_FORMAT, "%s: not an HDF5 file", path);
    }
    f->safe = safe;
    f->mpi = mpi;
    hid_t props = access_props(f);
    f->file = H5Fopen(path, writable ? H5F_ACC_RDWR : H5F_ACC_RDONLY, props);
    f->writable = writable;
    int rc = f->file < 0 ? h5_fail(ERR_FORMAT, f, NULL, "cannot open HDF5 file") : 0;
    H5Pclose(props);
    if (rc < 0) {
        discard(f);
        return rc;
    }
    *out = f;
    return 0;
}

int io_h5_open(IoH5 **out, const char *path) { return open_at(out, path, 0, 0, NULL); }
int io_h5_open_append(IoH5 **out, const char *path) { return open_at(out, path, 1, 0, NULL); }

int io_h5_open_safe(IoH5 **out, const char *path)
{
    *out = NULL;
    TRY(io_h5_recover(path));
    return open_at(out, path, 1, 1, NULL);
}

int io_h5_open_shared(IoH5 **out, const char *path, const void *mpi)
{
    *out = NULL;
    return io_h5_is_parallel() ? open_at(out, path, 1, 0, mpi) : err_set(ERR_UNSUPPORTED, "%s: this program's HDF5 writes files by one process only", path);
}

const char *io_h5_path(const IoH5 *f) { return f->path; }

static int sync_path(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno("%s", path);
    int rc = fsync(fd) < 0 ? err_errno("%s: fsync", path) : 0;
    close(fd);
    return rc;
}

int io_h5_flush(IoH5 *f)
{
    H5_CALL;
    if (H5Fflush(f->file, H5F_SCOPE_LOCAL) < 0)
        return h5_fail(ERR_IO, f, NULL, "cannot write");
    return sync_path(f->atomic ? io_atomic_path(f->atomic) : f->path);
}

int io_h5_save(IoH5 *f)
{
    H5Journal *j;
    H5_CALL;
    if (H5Fflush(f->file, H5F_SCOPE_LOCAL) < 0)
        return h5_fail(ERR_NOMEM, f, NULL, "cannot write");
    TRY(h5_journal_of(&j, f));
    return h5_journal_save(j, f->path, !f->atomic);
}

int io_h5_publish(IoH5 *f)
{
    TRY(io_h5_save(f));
    if (!f->atomic)
        return 0;
    int rc = io_atomic_commit(f->atomic);
    f->atomic = NULL;
    return rc;
}

int io_h5_commit(IoH5 **file)
{
    IoH5 *f = *file;
    H5_CALL;
    *file = NULL;
    if (f->safe) {
        int saved = io_h5_publish(f), closed = io_h5_close(f);
        return saved < 0 ? saved : closed;
    }
    int rc = H5Fclose(f->file) < 0 ? h5_fail(ERR_IO, f, NULL, "cannot write") : 0;
    if (rc == 0 && f->atomic) {
        rc = io_atomic_commit(f->atomic);
        f->atomic = NULL;
    } else if (rc == 0) {
        rc = sync_path(f->path);
    }
    discard(f);
    return rc;
}

int io_h5_close(IoH5 *f)
{
    if (!f)
        return 0;
    H5_CALL;
    int rc = H5Fclose(f->file) < 0 ? h5_fail(ERR_IO, f, NULL, "cannot close") : 0;
    discard(f);
    return rc;
}

/* Calls H5Lexists on each part of the path, as the library demands. */
int io_h5_exists(IoH5 *f, const char *name)
{
    H5_CALL;
    char *part = strdup(name);
    int found = part != NULL;
    for (size_t i = 1; found && i <= strlen(name); i++) {
        if (name[i] != '/' && name[i] != 0)
            continue;
        part[i] = 0;
        found = strcmp(part, "/") == 0 || H5Lexists(f->file, part, H5P_DEFAULT) > 0;
        part[i] = name[i];
    }
    if (found && strcmp(name, "/") != 0)
        found = H5Oexists_by_name(f->file, name, H5P_DEFAULT) > 0;
    H5Eclear2(H5E_DEFAULT);
    free(part);
    return found;
}

static int make_group(IoH5 *f, const char *name)
{
    hid_t props = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(props, 0);
    hid_t g = H5Gcreate2(f->file, name, H5P_DEFAULT, props, H5P_DEFAULT);
    int rc = g < 0 ? h5_fail(ERR_IO, f, name, "cannot create group") : 0;
    H5Pclose(props);
    if (g >= 0)
        H5Gclose(g);
    return rc;
}

/* Groups for every '/' in name after the first character. */
static int make_parents(IoH5 *f, const char *name)
{
    char *part = strdup(name);
    int rc = 0;
    if (!part)
        return err_set(ERR_NOMEM, "%s: out of memory", f->path);
    for (size_t i = 1; name[0] && name[i] && rc == 0; i++) {
        if (name[i] != '/')
            continue;
        part[i] = 0;
        if (!io_h5_exists(f, part))
            rc = make_group(f, part);
        part[i] = '/';
    }
    free(part);
    return rc;
}

int h5_new_name(IoH5 *f, const char *name)
{
    TRY(h5_writable(f, name));
    if (!*name || name[strlen(name) - 1] == '/')
        return err_set(ERR_RANGE, "%s: \"%s\" is not a dataset name", f->path, name);
    if (io_h5_exists(f, name))
        return err_set(ERR_BUSY, "%s: %s: exists already", f->path, name);
    return make_parents(f, name);
}

int io_h5_group(IoH5 *f, const char *name)
{
    H5_CALL;
    TRY(h5_writable(f, name));
    TRY(make_parents(f, name));
    return io_h5_exists(f, name) ? 0 : make_group(f, name);
}

int io_h5_delete(IoH5 *f, const char *name)
{
    H5_CALL;
    TRY(h5_writable(f, name));
    if (!io_h5_exists(f, name))
        return err_set(ERR_NOTFOUND, "%s: %s: no such object", f->path, name);
    return H5Ldelete(f->file, name, H5P_DEFAULT) < 0 ? h5_fail(ERR_IO, f, name, "cannot delete") : 0;
}

typedef struct {
    char **name;
    size_t n, cap;
    int failed;
} Names;

static herr_t take_name(hid_t group, const char *name, const H5L_info_t *info, void *data)
{
    Names *l = data;
    (void)group;
    (void)info;
    if (l->n == l->cap) {
        size_t cap = 2 * l->cap + 16;
        char **p = realloc(l->name, cap * sizeof *p);
        if (!p) {
            l->failed = 1;
            return -1;
        }
        l->name = p;
        l->cap = cap;
    }
    l->name[l->n] = strdup(name);
    l->failed |= !l->name[l->n];
    l->n += !l->failed;
    return l->failed ? -1 : 0;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int io_h5_list(IoH5 *f, const char *group, char ***names, int *n)
{
    Names l = {0};
    H5_CALL;
    *names = NULL;
    *n = 0;
    if (!io_h5_exists(f, group))
        return err_set(ERR_NOTFOUND, "%s: %s: no such group", f->path, group);
    hid_t g = H5Gopen2(f->file, group, H5P_DEFAULT);
    if (g < 0)
        return h5_fail(ERR_FORMAT, f, group, "not a group");
    herr_t bad = H5Literate(g, H5_INDEX_NAME, H5_ITER_INC, NULL, take_name, &l);
    int rc = l.failed ? err_set(ERR_NOMEM, "%s: out of memory", f->path) : bad < 0 ? h5_fail(ERR_FORMAT, f, group, "cannot list") : 0;
    H5Gclose(g);
    if (rc < 0) {
        io_h5_names_free(l.name, (int)l.n);
        return rc;
    }
    if (l.n)
        qsort(l.name, l.n, sizeof *l.name, by_name);
    *names = l.name;
    *n = (int)l.n;
    return 0;
}

void io_h5_names_free(char **names, int n)
{
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
}
