/* To be loaded by LD_PRELOAD: while the file READONLY_WHEN is there, everything under the folder READONLY_FOLDER answers as a file system
 * that the kernel turned read-only after an error: open files stay open, but nothing can be written. (mount -o remount,ro does not do:
 * it is refused while a file is open for writing.) */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int under(const char *path)
{
    const char *folder = getenv("READONLY_FOLDER"), *when = getenv("READONLY_WHEN");
    if (!folder || !when || strncmp(path, folder, strlen(folder)) != 0 || access(when, F_OK) != 0)
        return 0;
    errno = EROFS;
    return 1;
}

static int inside(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    return under(path);
}

#define NEXT(type, name) ((type)(void (*)(void))dlsym(RTLD_NEXT, name))
#define STOP(test, name, parameters, arguments) \
    int name parameters { return test ? -1 : NEXT(int (*) parameters, #name) arguments; }
#define STOP_WRITE(name, parameters, arguments) \
    ssize_t name parameters { return inside(fd) ? -1 : NEXT(ssize_t(*) parameters, #name) arguments; }

STOP_WRITE(write, (int fd, const void *p, size_t n), (fd, p, n))
STOP_WRITE(pwrite, (int fd, const void *p, size_t n, off_t at), (fd, p, n, at))
STOP_WRITE(pwrite64, (int fd, const void *p, size_t n, off64_t at), (fd, p, n, at))
STOP_WRITE(pwritev, (int fd, const struct iovec *p, int n, off_t at), (fd, p, n, at))
STOP(inside(fd), ftruncate, (int fd, off_t n), (fd, n))
STOP(inside(fd), ftruncate64, (int fd, off64_t n), (fd, n))
STOP(inside(fd), fsync, (int fd), (fd))
STOP(inside(fd), fdatasync, (int fd), (fd))
STOP(under(path), mkdir, (const char *path, mode_t mode), (path, mode))
STOP(under(path), unlink, (const char *path), (path))
STOP(under(path), rmdir, (const char *path), (path))
STOP(under(path) || under(to), rename, (const char *path, const char *to), (path, to))

static int opens(const char *name, const char *path, int flags, mode_t mode)
{
    if ((flags & (O_CREAT | O_TRUNC) || (flags & O_ACCMODE) != O_RDONLY) && under(path))
        return -1;
    return NEXT(int (*)(const char *, int, ...), name)(path, flags, mode);
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        return opens(#name, path, flags, mode); \
    }

OPEN(open)
OPEN(open64)

FILE *fopen(const char *path, const char *mode)
{
    return (*mode != 'r' || strchr(mode, '+')) && under(path) ? NULL : NEXT(FILE * (*)(const char *, const char *), "fopen")(path, mode);
}
