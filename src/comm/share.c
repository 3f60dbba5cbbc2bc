#include "comm/share.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/str.h"
#include "io/file.h"

enum { BLOCK = 8 << 20 };

int comm_share_test(Comm *c, const char *dir, int *sees, int *all)
{
    *sees = *all = 1;
    int64_t spread = c->local_size < c->size, id[2] = {clock_now_ns(), getpid()}, blind;
    TRY(comm_max_i64(c, &spread, 1));
    if (!spread)
        return 0;
    char *path = NULL;
    TRY(comm_bcast(c, id, sizeof id, 0));
    int rc = str_format(&path, "%s/.shared.tmp-%llx-%llx", dir, (unsigned long long)id[0], (unsigned long long)id[1]);
    if (rc >= 0 && c->rank == 0)
        rc = io_file_write(path, "", 0);
    rc = comm_agree(c, rc);
    if (rc >= 0) {
        *sees = io_file_exists(path);
        blind = !*sees;
        rc = comm_max_i64(c, &blind, 1);
        *all = !blind;
    }
    if (c->rank == 0 && path)
        io_file_remove(path);
    free(path);
    return rc;
}

/* Up to BLOCK bytes of a file; -1 in *n after an error, which stays this rank's message. */
static void read_block(int fd, const char *path, char *buf, int64_t *n)
{
    *n = 0;
    while (*n < BLOCK) {
        ssize_t got = read(fd, buf + *n, (size_t)(BLOCK - *n));
        if (got < 0) {
            err_errno("%s: read", path);
            *n = -1;
        }
        if (got <= 0)
            return;
        *n += got;
    }
}

static int is_same(const char *path, const int64_t *size, const uint8_t *hash)
{
    int64_t have;
    uint8_t sum[HASH_SIZE];
    return io_file_exists(path) && io_file_size(&have, path) >= 0 && have == *size && hash_file(sum, path) >= 0 && memcmp(sum, hash, HASH_SIZE) == 0;
}

/* All blocks from rank 0; the ranks with `to` write them. */
static int spread_blocks(Comm *c, int fd, const char *path, IoAtomic *to, char *buf)
{
    for (int64_t n = BLOCK; n == BLOCK;) {
        if (c->rank == 0)
            read_block(fd, path, buf, &n);
        TRY(comm_bcast(c, &n, sizeof n, 0));
        if (n < 0)
            return c->rank ? err_set(ERR_PEER, "rank 0 cannot read %s", path) : ERR_IO;
        TRY(comm_bcast(c, buf, n, 0));
        TRY(comm_agree(c, to ? io_atomic_write(to, buf, (size_t)n) : 0));
    }
    return 0;
}

int comm_share_spread(Comm *c, const char *path, int sees)
{
    struct {
        int64_t size;
        uint8_t hash[HASH_SIZE];
    } head = {0};
    int rc = 0, fd = -1;
    if (c->rank == 0) {
        rc = io_file_size(&head.size, path);
        if (rc >= 0)
            rc = hash_file(head.hash, path);
        if (rc >= 0 && (fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
            rc = err_errno("%s", path);
    }
    char *buf = malloc(BLOCK), *dir = NULL;
    IoAtomic *to = NULL;
    int64_t wanted = 0;
    TRY_GOTO(comm_agree(c, rc < 0 ? rc : buf ? 0 : err_set(ERR_NOMEM, "out of memory")));
    TRY_GOTO(comm_bcast(c, &head, sizeof head, 0));
    int mine = !sees && c->local_rank == 0 && !is_same(path, &head.size, head.hash);
    wanted = mine;
    TRY_GOTO(comm_max_i64(c, &wanted, 1));
    if (!wanted)
        goto done;
    if (mine && (rc = io_path_dir(&dir, path)) >= 0 && (rc = io_dir_make(dir)) >= 0)
        rc = io_atomic_open(&to, path);
    TRY_GOTO(comm_agree(c, rc));
    TRY_GOTO(spread_blocks(c, fd, path, to, buf));
    if (to)
        rc = io_atomic_commit(to);
    to = NULL;
    rc = comm_agree(c, rc);
done:
    io_atomic_abort(to);
    if (fd >= 0)
        close(fd);
    free(buf);
    free(dir);
    return rc;
}

static int spread_named(Comm *c, const char *dir, const char *file, int sees)
{
    int64_t len = file ? (int64_t)strlen(file) + 1 : 0;
    TRY(comm_bcast(c, &len, sizeof len, 0));
    char *name = calloc(1, (size_t)len), *path = NULL;
    int rc = comm_agree(c, name ? 0 : err_set(ERR_NOMEM, "out of memory"));
    if (rc >= 0 && file)
        memcpy(name, file, (size_t)len);
    if (rc >= 0)
        rc = comm_bcast(c, name, len, 0);
    if (rc >= 0)
        rc = comm_agree(c, io_path_join(&path, dir, name));
    if (rc >= 0)
        rc = comm_share_spread(c, path, sees);
    free(path);
    free(name);
    return rc;
}

int comm_share_spread_dir(Comm *c, const char *dir, const char *suffix, int64_t most, int sees, int64_t *count)
{
    IoNames names = {0};
    int rc = c->rank == 0 && io_file_is_dir(dir) ? io_dir_list(&names, dir, suffix) : 0;
    int64_t n = most && most < names.count ? most : names.count, from = names.count - n;
    rc = comm_agree(c, rc);
    if (rc >= 0)
        rc = comm_bcast(c, &n, sizeof n, 0);
    for (int64_t i = 0; i < n && rc >= 0; i++)
        rc = spread_named(c, dir, c->rank ? NULL : names.items[from + i], sees);
    io_names_deinit(&names);
    if (count)
        *count = n;
    return rc;
}

/* The sending end. What went wrong is told to the other end, which waits for blocks. */
static int send_file(Comm *c, const char *path, char *buf)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = fd < 0 ? err_errno("%s", path) : 0;
    for (int64_t n = BLOCK; n == BLOCK;) {
        if (rc < 0)
            n = -1;
        else
            read_block(fd, path, buf, &n);
        TRY(c->fn->send(c, &n, sizeof n, 0));
        if (n < 0)
            rc = rc < 0 ? rc : ERR_IO;
        else
            TRY(c->fn->send(c, buf, n, 0));
    }
    if (fd >= 0)
        close(fd);
    return rc;
}

static int take_file(Comm *c, int from, CommSharePlace place, void *ctx, char *buf)
{
    char *path = NULL;
    IoAtomic *to = NULL;
    int rc = place(ctx, &path);
    if (rc >= 0)
        rc = io_atomic_open(&to, path);
    for (int64_t n = BLOCK; n == BLOCK;) { /* to the end also after an error: the other end sends all of it */
        TRY_GOTO(c->fn->recv(c, &n, sizeof n, from));
        if (n < 0) {
            rc = err_set(ERR_PEER, "rank %d cannot read a file", from);
            break;
        }
        int got = c->fn->recv(c, buf, n, from);
        rc = got < 0 ? got : rc < 0 ? rc : io_atomic_write(to, buf, (size_t)n);
    }
    if (rc >= 0) {
        rc = io_atomic_commit(to);
        to = NULL;
    }
done:
    io_atomic_abort(to);
    free(path);
    return rc;
}

int comm_share_collect(Comm *c, int from, char *const *path, int n, CommSharePlace place, void *ctx)
{
    int64_t count = n;
    char *buf = malloc(BLOCK);
    int rc = comm_agree(c, buf ? 0 : err_set(ERR_NOMEM, "out of memory"));
    if (rc >= 0)
        rc = comm_bcast(c, &count, sizeof count, from);
    for (int64_t i = 0; i < count && rc >= 0; i++) {
        if (c->rank == from)
            rc = send_file(c, path[i], buf);
        else if (c->rank == 0)
            rc = take_file(c, from, place, ctx, buf);
        rc = comm_agree(c, rc);
        if (rc >= 0 && c->rank == from)
            rc = io_file_remove(path[i]);
    }
    free(buf);
    return comm_agree(c, rc);
}
