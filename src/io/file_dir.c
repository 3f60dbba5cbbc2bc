#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/str.h"
#include "io/file.h"

static int make_one(const char *path)
{
    if (mkdir(path, 0777) == 0)
        return 0;
    int why = errno;
    if (io_file_is_dir(path))
        return 0;
    if (why == EEXIST)
        return err_set(ERR_IO, "%s: create folder: a file of this name is there", path);
    errno = why;
    return err_errno("%s: create folder", path);
}

int io_dir_make(const char *path)
{
    char *copy;
    int rc = 0;
    if (!*path)
        return err_set(ERR_NOTFOUND, "empty folder name");
    TRY(str_copy(&copy, path));
    for (char *p = copy + 1; rc == 0 && *p; p++) {
        if (*p != '/')
            continue;
        *p = 0;
        rc = make_one(copy);
        *p = '/';
    }
    free(copy);
    return rc < 0 ? rc : make_one(path);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int add_name(IoNames *n, const char *name)
{
    size_t count = (size_t)n->count;
    if (!(count & (count - 1))) { /* full at powers of two */
        char **p = realloc(n->items, (count ? 2 * count : 1) * sizeof *p);
        if (!p)
            return err_set(ERR_NOMEM, "out of memory");
        n->items = p;
    }
    TRY(str_copy(&n->items[n->count], name));
    n->count++;
    return 0;
}

int io_dir_list(IoNames *out, const char *path, const char *suffix)
{
    *out = (IoNames){NULL, 0};
    DIR *d = opendir(path);
    if (!d)
        return err_errno("%s", path);
    int rc = 0;
    struct dirent *e;
    while (rc == 0 && (errno = 0, e = readdir(d)) != NULL)
        if (e->d_name[0] != '.' && (!suffix || str_ends_with(e->d_name, suffix)))
            rc = add_name(out, e->d_name);
    if (rc == 0 && errno)
        rc = err_errno("%s: list", path);
    closedir(d);
    if (rc < 0)
        io_names_deinit(out);
    else if (out->count)
        qsort(out->items, (size_t)out->count, sizeof *out->items, compare_names);
    return rc;
}

void io_names_deinit(IoNames *n)
{
    for (int i = 0; i < n->count; i++)
        free(n->items[i]);
    free(n->items);
    *n = (IoNames){NULL, 0};
}

static int copy_folder(const char *from, const char *to, const char *dir, int depth, int (*left_out)(const char *, const char *))
{
    IoNames names = {0};
    int rc;
    TRY_GOTO(io_dir_make(to));
    TRY_GOTO(io_dir_list(&names, from, NULL));
    for (int i = 0; rc >= 0 && i < names.count; i++) {
        const char *name = names.items[i];
        char *a = NULL, *b = NULL;
        rc = io_path_join(&a, from, name);
        if (rc >= 0)
            rc = io_path_join(&b, to, name);
        if (rc >= 0 && io_file_is_dir(a))
            rc = depth > 0 ? copy_folder(a, b, name, depth - 1, left_out) : 0;
        else if (rc >= 0 && (!left_out || !left_out(dir, name)))
            rc = io_file_copy(a, b, 1);
        free(a);
        free(b);
    }
done:
    io_names_deinit(&names);
    return rc;
}

int io_dir_copy(const char *from, const char *to, int depth, int (*left_out)(const char *dir, const char *name))
{
    return copy_folder(from, to, "", depth, left_out);
}

int io_dir_remove_temps(const char *dir)
{
    DIR *d = opendir(dir);
    if (!d)
        return err_errno("%s", dir);
    struct dirent *e;
    while ((e = readdir(d)) != NULL)
        if (e->d_name[0] == '.' && strstr(e->d_name, ".tmp-") && unlinkat(dirfd(d), e->d_name, 0) < 0)
            errno = 0; /* someone else's, or gone: harmless */
    closedir(d);
    return 0;
}

int io_path_join(char **out, const char *a, const char *b)
{
    if (!*a || *b == '/')
        return str_copy(out, b);
    return str_format(out, "%s%s%s", a, str_ends_with(a, "/") ? "" : "/", b);
}

int io_path_dir(char **out, const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    while (n > 0 && path[n - 1] != '/')
        n--;
    while (n > 1 && path[n - 1] == '/')
        n--;
    return n ? str_format(out, "%.*s", (int)n, path) : str_copy(out, ".");
}

const char *io_path_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

const char *io_path_ext(const char *path)
{
    const char *name = io_path_name(path), *dot = strrchr(name, '.');
    return dot && dot != name ? dot : name + strlen(name);
}

int io_path_is_inside(const char *path)
{
    if (!*path || *path == '/')
        return 0;
    for (const char *p = path; *p;) {
        size_t n = strcspn(p, "/");
        if (n == 2 && p[0] == '.' && p[1] == '.')
            return 0;
        p += n + (p[n] == '/');
    }
    return 1;
}

struct IoLock {
    int fd;
};

static int busy(int fd, const char *dir)
{
    char who[256];
    ssize_t n = pread(fd, who, sizeof who - 1, 0);
    who[n > 0 ? n : 0] = 0;
    who[strcspn(who, "\n")] = 0;
    for (char *p = who; *p; p++) /* the file could hold anything */
        if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7E)
            *p = '?';
    return err_set(ERR_BUSY, "%s: output folder is in use by another run%s%s%s", dir, *who ? " (" : "", who, *who ? ")" : "");
}

static int write_owner(int fd, const char *path)
{
    char host[128] = "?", text[256];
    gethostname(host, sizeof host - 1);
    int n = snprintf(text, sizeof text, "process %ld on host %s\n", (long)getpid(), host);
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) != n)
        return err_errno("%s: write", path);
    return 0;
}

static int take_lock(IoLock **out, const char *dir, int how)
{
    char *path;
    *out = NULL;
    TRY(io_path_join(&path, dir, ".atelier.lock"));
    IoLock *l = calloc(1, sizeof *l);
    int rc = l ? 0 : err_set(ERR_NOMEM, "out of memory");
    int fd = rc < 0 ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (rc == 0 && fd < 0)
        rc = err_errno("%s", path);
    if (rc == 0 && flock(fd, how | LOCK_NB) < 0)
        rc = errno == EWOULDBLOCK ? busy(fd, dir) : err_errno("%s: lock", path);
    if (rc == 0 && how == LOCK_EX)
        rc = write_owner(fd, path);
    free(path);
    if (rc < 0) {
        if (fd >= 0)
            close(fd);
        free(l);
        return rc;
    }
    l->fd = fd;
    *out = l;
    return 0;
}

int io_lock_acquire(IoLock **out, const char *dir) { return take_lock(out, dir, LOCK_EX); }
int io_lock_share(IoLock **out, const char *dir) { return take_lock(out, dir, LOCK_SH); }

void io_lock_release(IoLock *l)
{
    if (!l)
        return;
    /* The file stays: removing it would let two others lock different files of the same name. */
    if (ftruncate(l->fd, 0) < 0)
        errno = 0;
    close(l->fd);
    free(l);
}
