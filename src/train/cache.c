#include "train/cache.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/progress.h"
#include "base/signal.h"
#include "io/file.h"
#include "io/h5.h"

#define MEMORY_MAX ((int64_t)2 << 30)
enum { COPY_ROWS = 256, COMMIT_ROWS = 2048 };

typedef struct {
    uint8_t key[HASH_SIZE];
    int64_t at;
} Entry;

struct TrainCache {
    IoH5 *h5;
    int64_t row, count;
    int64_t *at;      /* row in the file of each wanted entry */
    float *memory;    /* [count][row] or NULL */
};

static int by_key(const void *a, const void *b)
{
    return memcmp(((const Entry *)a)->key, ((const Entry *)b)->key, HASH_SIZE);
}

/* The keys of the file at path, sorted; *n = 0 where there is no usable file (told where `warn`). */
static int read_keys(const TrainCacheSpec *s, int warn, Entry **out, int64_t *n)
{
    IoH5 *f = NULL;
    IoH5Info info;
    uint8_t *keys = NULL;
    Entry *e = NULL;
    int rc;
    *n = 0;
    *out = NULL;
    if (!io_file_exists(s->path))
        return 0;
    TRY_GOTO(io_h5_open(&f, s->path));
    TRY_GOTO(io_h5_info(f, "row", &info));
    if (info.ndim != 2 || info.dim[1] != s->row || info.dtype != DTYPE_F32) {
        rc = err_set(ERR_FORMAT, "%s: rows of another size", s->path);
        goto done;
    }
    keys = malloc((size_t)info.dim[0] * HASH_SIZE + 1);
    e = malloc((size_t)(info.dim[0] + 1) * sizeof *e);
    if (!keys || !e) {
        rc = err_set(ERR_NOMEM, "cache: out of memory");
        goto done;
    }
    TRY_GOTO(io_h5_read(f, "key", DTYPE_U8, keys, info.dim[0] * HASH_SIZE));
    for (int64_t i = 0; i < info.dim[0]; i++) {
        memcpy(e[i].key, keys + i * HASH_SIZE, HASH_SIZE);
        e[i].at = i;
    }
    qsort(e, (size_t)info.dim[0], sizeof *e, by_key);
    *n = info.dim[0];
    *out = e;
    e = NULL;
done:
    if (f)
        io_h5_close(f);
    free(keys);
    free(e);
    if (rc < 0 && rc != ERR_NOMEM) {
        if (warn)
            log_warn("cache %s cannot be used and is made anew: %s", s->path, err_message());
        return 0;
    }
    return rc;
}

static int64_t lookup(const Entry *e, int64_t n, const uint8_t *key)
{
    Entry want;
    memcpy(want.key, key, HASH_SIZE);
    const Entry *hit = n ? bsearch(&want, e, (size_t)n, sizeof *e, by_key) : NULL;
    return hit ? hit->at : -1;
}

/* Fills at[] for rows in the file and lists the others, each distinct key once. */
static int find_missing(const TrainCacheSpec *s, int warn, int64_t *at, int64_t **missing, int64_t *nmissing, int64_t *nold)
{
    Entry *old = NULL, *fresh = NULL;
    int64_t k = 0;
    TRY(read_keys(s, warn, &old, nold));
    *missing = malloc((size_t)(s->count + 1) * sizeof **missing);
    fresh = malloc((size_t)(s->count + 1) * sizeof *fresh);
    if (!*missing || !fresh) {
        free(old);
        free(fresh);
        return err_set(ERR_NOMEM, "cache: out of memory");
    }
    for (int64_t i = 0; i < s->count; i++) {
        at[i] = lookup(old, *nold, s->key[i]);
        if (at[i] < 0) {
            memcpy(fresh[k].key, s->key[i], HASH_SIZE);
            fresh[k++].at = i;
        }
    }
    qsort(fresh, (size_t)k, sizeof *fresh, by_key);
    int64_t distinct = 0;
    for (int64_t i = 0; i < k; i++)
        if (i == 0 || memcmp(fresh[i].key, fresh[i - 1].key, HASH_SIZE))
            (*missing)[distinct++] = fresh[i].at;
    *nmissing = distinct;
    free(old);
    free(fresh);
    return 0;
}

static int copy_old(const TrainCacheSpec *s, IoH5 *to, int64_t nold)
{
    IoH5 *from = NULL;
    float *rows = malloc((size_t)(COPY_ROWS * s->row) * sizeof *rows);
    uint8_t *keys = malloc(COPY_ROWS * HASH_SIZE);
    int rc = rows && keys ? 0 : err_set(ERR_NOMEM, "cache: out of memory");
    if (rc >= 0 && nold)
        rc = io_h5_open(&from, s->path);
    for (int64_t i = 0; rc >= 0 && i < nold; i += COPY_ROWS) {
        int64_t n = nold - i < COPY_ROWS ? nold - i : COPY_ROWS;
        TRY_GOTO(io_h5_read_rows(from, "row", DTYPE_F32, i, n, rows));
        TRY_GOTO(io_h5_read_rows(from, "key", DTYPE_U8, i, n, keys));
        TRY_GOTO(io_h5_append(to, "row", DTYPE_F32, n, rows));
        TRY_GOTO(io_h5_append(to, "key", DTYPE_U8, n, keys));
    }
done:
    if (from)
        io_h5_close(from);
    free(rows);
    free(keys);
    return rc;
}

static int begin_file(const TrainCacheSpec *s, IoH5 **f, int64_t nold)
{
    const int64_t key_dim = HASH_SIZE;
    IoH5Store store = {.checksum = 1, .chunk_rows = 1 + (1 << 16) / (s->row * 4)};
    IoH5Store keys = {.checksum = 1, .chunk_rows = 1024};
    TRY(io_h5_create(f, s->path));
    TRY(io_h5_create_rows(*f, "row", DTYPE_F32, 0, 1, &s->row, &store));
    TRY(io_h5_create_rows(*f, "key", DTYPE_U8, 0, 1, &key_dim, &keys));
    return copy_old(s, *f, nold);
}

/* Rank 0: appends the blocks of one round, in order. */
static int append_round(const TrainCacheSpec *s, IoH5 *f, const float *all, const int64_t *missing, int64_t first, int64_t n)
{
    TRY(io_h5_append(f, "row", DTYPE_F32, n, all));
    for (int64_t i = 0; i < n; i++)
        TRY(io_h5_append(f, "key", DTYPE_U8, 1, s->key[missing[first + i]]));
    return 0;
}

typedef struct {
    const TrainCacheSpec *s;
    Comm *comm;
    Progress bar;
    int64_t total, left; /* rows to compute, and of them not yet in the file */
    int stop;            /* a signal came */
} Filling;

/* Rows missing[0..n) into a file that replaces the old one. A signal ends it early, with the rows so far in the file. */
static int compute_missing(Filling *w, const int64_t *missing, int64_t n, int64_t nold)
{
    const TrainCacheSpec *s = w->s;
    Comm *comm = w->comm;
    IoH5 *f = NULL;
    int64_t round = (int64_t)s->batch * comm->size;
    float *mine = malloc((size_t)(s->batch * s->row) * sizeof *mine);
    float *all = comm->rank ? NULL : malloc((size_t)(round * s->row) * sizeof *all);
    int rc = mine && (all || comm->rank) ? 0 : err_set(ERR_NOMEM, "cache: out of memory");
    if (rc >= 0 && comm->rank == 0)
        rc = begin_file(s, &f, nold);
    rc = comm_agree(comm, rc);
    for (int64_t at = 0; rc >= 0 && at < n && !w->stop; at += round) {
        int64_t my = at + (int64_t)comm->rank * s->batch, k = n - my, m = n - at < round ? n - at : round;
        k = k < 0 ? 0 : k > s->batch ? s->batch : k;
        memset(mine, 0, (size_t)(s->batch * s->row) * sizeof *mine);
        if (k)
            rc = s->compute(s->ctx, missing + my, (int)k, mine);
        TRY_GOTO(comm_agree(comm, rc));
        TRY_GOTO(comm_gather(comm, mine, s->batch * s->row * (int64_t)sizeof *mine, all, 0));
        if (comm->rank == 0)
            rc = append_round(s, f, all, missing, at, m);
        TRY_GOTO(comm_agree(comm, rc));
        TRY_GOTO(w->stop = comm_any(comm, signal_stop()));
        w->left -= m;
        progress_update(&w->bar, w->total - w->left, "%.1f/s", progress_rate(&w->bar, w->total - w->left));
    }
    if (rc >= 0 && f)
        rc = io_h5_commit(&f);
    rc = comm_agree(comm, rc);
done:
    if (f)
        io_h5_close(f);
    free(mine);
    free(all);
    return rc;
}

static int by_place(const void *a, const void *b)
{
    int64_t x = ((const Entry *)a)->at, y = ((const Entry *)b)->at;
    return x < y ? -1 : x > y;
}

/* Entries in the order of their rows, so that each block of the file is read once. */
static int copy_rows(TrainCache *c, Entry *order, float *rows)
{
    IoH5Info info;
    int64_t have = -1; /* first file row in `rows` */
    TRY(io_h5_info(c->h5, "row", &info));
    for (int64_t i = 0; i < c->count; i++) {
        order[i].at = c->at[i];
        memcpy(order[i].key, &i, sizeof i);
    }
    qsort(order, (size_t)c->count, sizeof *order, by_place);
    for (int64_t k = 0; k < c->count; k++) {
        int64_t i, block = order[k].at / COPY_ROWS * COPY_ROWS;
        memcpy(&i, order[k].key, sizeof i);
        if (block != have) {
            int64_t n = info.dim[0] - block > COPY_ROWS ? COPY_ROWS : info.dim[0] - block;
            TRY(io_h5_read_rows(c->h5, "row", DTYPE_F32, block, n, rows));
            have = block;
        }
        memcpy(c->memory + i * c->row, rows + (order[k].at - block) * c->row, (size_t)c->row * sizeof(float));
    }
    return 0;
}

static int load_memory(TrainCache *c)
{
    if (c->count * c->row * 4 > MEMORY_MAX)
        return 0;
    c->memory = malloc((size_t)(c->count * c->row) * sizeof(float) + 1);
    if (!c->memory)
        return 0;
    float *rows = malloc((size_t)(COPY_ROWS * c->row) * sizeof *rows);
    Entry *order = malloc((size_t)(c->count + 1) * sizeof *order);
    int rc = rows && order ? copy_rows(c, order, rows) : err_set(ERR_NOMEM, "cache: out of memory");
    free(rows);
    free(order);
    return rc;
}

/* Rank 0: waits while another run fills caches in the same folder. */
static int lock_folder(const TrainCacheSpec *s, IoLock **lock)
{
    char *dir;
    TRY(io_path_dir(&dir, s->path));
    int rc = io_lock_acquire(lock, dir), waited = 0;
    while (rc == ERR_BUSY && !signal_stop()) {
        if (!waited++)
            log_info("waiting for another run that fills caches in %s", dir);
        sleep(1);
        rc = io_lock_acquire(lock, dir);
    }
    free(dir);
    return rc == ERR_BUSY ? err_set(ERR_STOPPED, "stopped by %s", signal_name(signal_stop())) : rc;
}

/* One portion, as large as the file so far, so that little is lost when the run is killed. *n: rows that were missing before. */
static int fill_portion(Filling *w, int64_t *at, int64_t *n)
{
    int64_t *missing = NULL, nold = 0;
    int first = w->total < 0;
    int rc = find_missing(w->s, first && w->comm->rank == 0, at, &missing, n, &nold);
    if (rc >= 0 && !first && *n != w->left)
        rc = err_set(ERR_IO, "%s: %lld rows are missing, expected %lld", w->s->path, (long long)*n, (long long)w->left);
    rc = comm_agree(w->comm, rc);
    if (first) {
        w->total = w->left = *n;
        progress_init(&w->bar, w->s->label, 0, *n, w->comm->rank == 0);
    }
    int64_t portion = nold > COMMIT_ROWS ? nold : COMMIT_ROWS;
    if (rc >= 0 && *n)
        rc = compute_missing(w, missing, *n < portion ? *n : portion, nold);
    free(missing);
    return rc;
}

static int fill_file(const TrainCacheSpec *s, Comm *comm, int64_t *at)
{
    IoLock *lock = NULL;
    Filling w = {.s = s, .comm = comm, .total = -1};
    int rc = comm_agree(comm, comm->rank ? 0 : lock_folder(s, &lock));
    int64_t n = 1;
    while (rc >= 0 && n && !w.stop)
        rc = fill_portion(&w, at, &n);
    if (w.total >= 0)
        progress_break(&w.bar);
    io_lock_release(lock);
    if (rc >= 0 && w.stop > 0)
        return err_set(ERR_STOPPED, "stopped by %s; the %s so far are kept: run again to continue", signal_name(w.stop), s->label);
    return rc;
}

static int find_or_fill(TrainCache *c, const TrainCacheSpec *s, Comm *comm)
{
    int64_t *missing = NULL, nmissing = 0, nold = 0;
    int rc = find_missing(s, 0, c->at, &missing, &nmissing, &nold);
    free(missing);
    TRY(comm_agree(comm, rc));
    TRY(comm_max_i64(comm, &nmissing, 1)); /* ranks may see different moments of a file that another run fills */
    return nmissing ? fill_file(s, comm, c->at) : 0;
}

static int open_file(TrainCache *c, const TrainCacheSpec *s, Comm *comm)
{
    int rc = io_h5_open(&c->h5, s->path);
    if (rc >= 0)
        rc = load_memory(c);
    return comm_agree(comm, rc);
}

static void close_file(TrainCache *c)
{
    if (c->h5)
        io_h5_close(c->h5);
    free(c->memory);
    c->h5 = NULL;
    c->memory = NULL;
}

/* Damaged rows are found on reading; the file is then made anew, once. */
static int open_sound(TrainCache *c, const TrainCacheSpec *s, Comm *comm)
{
    TRY(find_or_fill(c, s, comm));
    int rc = open_file(c, s, comm);
    if (rc >= 0)
        return 0;
    close_file(c);
    if (comm->rank == 0) {
        log_warn("cache %s cannot be used and is made anew: %s", s->path, err_message());
        rc = io_file_remove(s->path);
    }
    TRY(comm_agree(comm, comm->rank ? 0 : rc));
    TRY(find_or_fill(c, s, comm));
    return open_file(c, s, comm);
}

int train_cache_open(TrainCache **out, const TrainCacheSpec *s, Comm *comm)
{
    TrainCache *c = calloc(1, sizeof *c);
    int rc = c ? 0 : err_set(ERR_NOMEM, "cache: out of memory");
    if (rc >= 0) {
        c->row = s->row;
        c->count = s->count;
        c->at = malloc((size_t)(s->count + 1) * sizeof *c->at);
        rc = c->at ? 0 : err_set(ERR_NOMEM, "cache: out of memory");
    }
    rc = comm_agree(comm, rc);
    if (rc >= 0)
        rc = open_sound(c, s, comm);
    if (rc < 0) {
        train_cache_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

void train_cache_close(TrainCache *c)
{
    if (!c)
        return;
    close_file(c);
    free(c->at);
    free(c);
}

int train_cache_read(TrainCache *c, int64_t i, float *out)
{
    if (c->memory) {
        memcpy(out, c->memory + i * c->row, (size_t)c->row * sizeof *out);
        return 0;
    }
    return io_h5_read_rows(c->h5, "row", DTYPE_F32, c->at[i], 1, out);
}
