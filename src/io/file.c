#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/str.h"

static int read_all(int fd, char *data, size_t size, size_t *got, const char *path)
{
    *got = 0;
    while (*got < size) {
        ssize_t n = read(fd, data + *got, size - *got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno("%s: read", path);
        if (n == 0)
            break;
        *got += (size_t)n;
    }
    return 0;
}

int io_file_read(char **out, size_t *size, const char *path, size_t max)
{
    struct stat st;
    char *data = NULL;
    int rc = 0;
    *out = NULL;
    *size = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno("%s", path);
    if (fstat(fd, &st) < 0)
        rc = err_errno("%s", path);
    else if (S_ISDIR(st.st_mode))
        rc = err_set(ERR_IO, "%s: is a folder", path);
    else if ((uint64_t)st.st_size > max)
        rc = err_set(ERR_RANGE, "%s: has %lld bytes, expected at most %zu", path, (long long)st.st_size, max);
    /* Pipes and the like have no size: read up to the limit. */
    size_t want = rc < 0 ? 0 : S_ISREG(st.st_mode) ? (size_t)st.st_size : max;
    if (rc == 0 && !(data = malloc(want + 1)))
        rc = err_set(ERR_NOMEM, "%s: out of memory for %zu bytes", path, want);
    if (rc == 0)
        rc = read_all(fd, data, want, size, path);
    close(fd);
    if (rc < 0) {
        free(data);
        return rc;
    }
    data[*size] = 0;
    *out = data;
    return 0;
}

int io_file_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

int io_file_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int io_file_size(int64_t *out, const char *path)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return err_errno("%s", path);
    *out = st.st_size;
    return 0;
}

int io_file_remove(const char *path)
{
    return unlink(path) < 0 && errno != ENOENT ? err_errno("%s: remove", path) : 0;
}

struct IoAtomic {
    int fd;
    char *path, *temp;
};

static void discard(IoAtomic *a, int remove_temp)
{
    if (a->fd >= 0)
        close(a->fd);
    if (remove_temp && a->temp)
        unlink(a->temp);
    free(a->path);
    free(a->temp);
    free(a);
}

/* Created by open() and not mkstemp(), which ignores the umask. */
static int create_temp(IoAtomic *a, const char *path)
{
    const char *name = io_path_name(path);
    for (int i = 0; i < 100; i++) {
        unsigned long long id = (unsigned long long)clock_now_ns() * 1000003u + (unsigned long long)getpid();
        TRY(str_format(&a->temp, "%.*s.%s.tmp-%012llx", (int)(name - path), path, name, id & 0xFFFFFFFFFFFFu));
        a->fd = open(a->temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (a->fd >= 0)
            return 0;
        free(a->temp);
        a->temp = NULL;
        if (errno != EEXIST)
            break;
    }
    return err_errno("%s: create", path);
}

int io_atomic_open(IoAtomic **out, const char *path)
{
    *out = NULL;
    IoAtomic *a = calloc(1, sizeof *a);
    if (!a)
        return err_set(ERR_NOMEM, "out of memory");
    a->fd = -1;
    int rc = str_copy(&a->path, path);
    if (rc == 0)
        rc = create_temp(a, path);
    if (rc < 0) {
        discard(a, 1);
        return rc;
    }
    *out = a;
    return 0;
}

const char *io_atomic_path(const IoAtomic *a)
{
    return a->temp;
}

int io_atomic_write(IoAtomic *a, const void *data, size_t size)
{
    const char *p = data;
    while (size) {
        ssize_t n = write(a->fd, p, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno("%s: write", a->path);
        p += n;
        size -= (size_t)n;
    }
    return 0;
}

int io_dir_sync(const char *path)
{
    char *dir;
    TRY(io_path_dir(&dir, path));
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
    /* Some network file systems cannot sync folders; the rename itself has been done. */
    if (fd >= 0 && fsync(fd) < 0 && errno != EINVAL && errno != ENOTSUP)
        rc = err_errno("%s: sync", dir);
    if (fd >= 0)
        close(fd);
    free(dir);
    return rc;
}

int io_atomic_commit(IoAtomic *a)
{
    /* The writer may have replaced or reopened the file by its path: sync what the path names. */
    int rc = 0, renamed = 0, fd = open(a->temp, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        rc = err_errno("%s: sync", a->path);
    if (fd >= 0)
        close(fd);
    if (rc == 0 && rename(a->temp, a->path) < 0)
        rc = err_errno("%s: rename", a->path);
    else if (rc == 0)
        renamed = 1;
    if (renamed)
        rc = io_dir_sync(a->path);
    discard(a, !renamed);
    return rc;
}

void io_atomic_abort(IoAtomic *a)
{
    if (a)
        discard(a, 1);
}

int io_file_write(const char *path, const void *data, size_t size)
{
    IoAtomic *a;
    TRY(io_atomic_open(&a, path));
    int rc = io_atomic_write(a, data, size);
    if (rc < 0) {
        io_atomic_abort(a);
        return rc;
    }
    return io_atomic_commit(a);
}

static int share_file(const char *from, IoAtomic *a)
{
    return unlink(a->temp) == 0 && link(from, a->temp) == 0;
}

static int copy_bytes(const char *from, IoAtomic *a)
{
    char buf[1 << 16];
    size_t n;
    FILE *in = fopen(from, "rb");
    if (!in)
        return err_errno("%s: open", from);
    int rc = 0;
    while (rc >= 0 && (n = fread(buf, 1, sizeof buf, in)) > 0)
        rc = io_atomic_write(a, buf, n);
    if (rc >= 0 && ferror(in))
        rc = err_set(ERR_IO, "%s: cannot be read", from);
    fclose(in);
    return rc;
}

int io_file_copy(const char *from, const char *to, int share)
{
    struct stat a, b;
    IoAtomic *out;
    if (stat(from, &a) == 0 && stat(to, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        return 0;
    TRY(io_atomic_open(&out, to));
    if (share && share_file(from, out))
        return io_atomic_commit(out);
    if (share) { /* without its file, the place is to be taken again */
        io_atomic_abort(out);
        TRY(io_atomic_open(&out, to));
    }
    int rc = copy_bytes(from, out);
    if (rc < 0) {
        io_atomic_abort(out);
        return rc;
    }
    return io_atomic_commit(out);
}
