#include "train/cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/signal.h"
#include "base/str.h"
#include "io/file.h"
#include "io/h5.h"

#define MEMORY_MAX ((int64_t)2 << 30)
#define SAVE_BYTES ((int64_t)64 << 20)
enum { COPY_ROWS = 256, ROUND_BATCHES = 8, SAVE_SECONDS = 10, FAILED = 1 << 16 };

typedef struct {
    uint8_t key[HASH_SIZE];
    int32_t part;
    int64_t at;
} Entry;

/* Where a wanted row is; part -1: nowhere. */
typedef struct {
    int32_t part;
    int64_t at;
} Place;

struct TrainCache {
    const TrainCacheSpec *spec; /* while it is opened */
    char **path;
    IoH5 **part;
    int npart;
    int64_t row, count;
    Place *place;     /* [count] */
    float *memory;    /* [count][row] or NULL */
    int bad;          /* part with damaged rows, -1 */
};

static int by_key(const void *a, const void *b)
{
    return memcmp(((const Entry *)a)->key, ((const Entry *)b)->key, HASH_SIZE);
}

/* ---- what is there ---- */

static void close_parts(TrainCache *c)
{
    for (int i = 0; i < c->npart; i++) {
        if (c->part[i])
            io_h5_close(c->part[i]);
        free(c->path[i]);
    }
    free(c->part);
    free(c->path);
    free(c->memory);
    c->part = NULL;
    c->path = NULL;
    c->memory = NULL;
    c->npart = 0;
}

/* Adds the keys of a file. */
static int read_keys(TrainCache *c, int part, Entry **all, int64_t *n)
{
    IoH5Info info;
    TRY(io_h5_info(c->part[part], "row", &info));
    if (info.ndim != 2 || info.dim[1] != c->row || info.dtype != DTYPE_F32)
        return err_set(ERR_FORMAT, "%s: rows of another size", c->path[part]);
    int64_t rows = info.dim[0];
    uint8_t *keys = malloc((size_t)rows * HASH_SIZE + 1);
    Entry *e = realloc(*all, (size_t)(*n + rows + 1) * sizeof *e);
    int rc = keys && e ? 0 : err_set(ERR_NOMEM, "cache: out of memory");
    if (e)
        *all = e;
    if (rc >= 0)
        rc = io_h5_read(c->part[part], "key", DTYPE_U8, keys, rows * HASH_SIZE);
    for (int64_t i = 0; rc >= 0 && i < rows; i++) {
        Entry *to = &e[(*n)++];
        memcpy(to->key, keys + i * HASH_SIZE, HASH_SIZE);
        to->part = part;
        to->at = i;
    }
    free(keys);
    return rc;
}

static int add_part(TrainCache *c, char *path, int warn, Entry **all, int64_t *n)
{
    char **paths = realloc(c->path, (size_t)(c->npart + 1) * sizeof *paths);
    if (paths)
        c->path = paths;
    IoH5 **parts = realloc(c->part, (size_t)(c->npart + 1) * sizeof *parts);
    if (parts)
        c->part = parts;
    if (!paths || !parts) {
        free(path);
        return err_set(ERR_NOMEM, "cache: out of memory");
    }
    c->path[c->npart] = path;
    c->part[c->npart] = NULL;
    int rc = io_h5_open(&c->part[c->npart], path);
    if (rc >= 0)
        rc = read_keys(c, c->npart, all, n);
    if (rc >= 0 || rc == ERR_NOMEM) {
        c->npart++;
        return rc;
    }
    if (warn)
        log_warn("cache %s cannot be used and is passed over; it may be removed: %s", path, err_message());
    if (c->part[c->npart])
        io_h5_close(c->part[c->npart]);
    free(path);
    return 0;
}

/* All files of the cache: NAME.*.h5 beside each other, and NAME.h5. */
static int open_parts(TrainCache *c, int warn, Entry **all, int64_t *n)
{
    char *dir = NULL;
    IoNames names = {0};
    const char *base = io_path_name(c->spec->path);
    size_t len = strlen(base);
    int rc = io_path_dir(&dir, c->spec->path);
    close_parts(c);
    if (rc >= 0 && io_file_is_dir(dir))
        rc = io_dir_list(&names, dir, ".h5");
    for (int i = 0; rc >= 0 && i < names.count; i++) {
        char *path;
        if (strncmp(names.items[i], base, len) || names.items[i][len] != '.')
            continue;
        rc = io_path_join(&path, dir, names.items[i]);
        if (rc >= 0)
            rc = add_part(c, path, warn, all, n);
    }
    io_names_deinit(&names);
    free(dir);
    return rc;
}

/* Finds the wanted rows. missing: the others, each distinct key once, in the order of the rows. NULL: only their number. */
static int find_rows(TrainCache *c, int warn, int64_t **missing, int64_t *nmissing)
{
    const TrainCacheSpec *s = c->spec;
    Entry *have = NULL, *fresh = malloc((size_t)(s->count + 1) * sizeof *fresh);
    int64_t nhave = 0, n = 0, distinct = 0;
    int rc = fresh ? open_parts(c, warn, &have, &nhave) : err_set(ERR_NOMEM, "cache: out of memory");
    if (rc >= 0 && nhave)
        qsort(have, (size_t)nhave, sizeof *have, by_key);
    for (int64_t i = 0; rc >= 0 && i < s->count; i++) {
        Entry want = {.part = -1, .at = i};
        memcpy(want.key, s->key[i], HASH_SIZE);
        const Entry *hit = nhave ? bsearch(&want, have, (size_t)nhave, sizeof *have, by_key) : NULL;
        c->place[i] = hit ? (Place){hit->part, hit->at} : (Place){-1, 0};
        if (!hit)
            fresh[n++] = want;
    }
    free(have);
    if (rc >= 0 && missing) {
        *missing = malloc((size_t)(n + 1) * sizeof **missing);
        rc = *missing ? 0 : err_set(ERR_NOMEM, "cache: out of memory");
    }
    if (rc >= 0)
        qsort(fresh, (size_t)n, sizeof *fresh, by_key);
    for (int64_t i = 0; rc >= 0 && i < n; i++)
        if (i == 0 || memcmp(fresh[i].key, fresh[i - 1].key, HASH_SIZE)) {
            if (missing)
                (*missing)[distinct] = fresh[i].at;
            distinct++;
        }
    *nmissing = distinct;
    free(fresh);
    return rc;
}

/* ---- filling ---- */

typedef struct {
    const TrainCacheSpec *s;
    Comm *comm;
    const int64_t *which; /* this rank's share of the missing rows */
    int64_t n, done;
    float *rows;
    uint8_t *keys;
    IoH5 *f;
    int published;
    int64_t unsaved;      /* rows */
    double saved;         /* when */
} Filling;

/* A name that no file of this rank has. */
static int create_part(Filling *w)
{
    const int64_t key_dim = HASH_SIZE;
    IoH5Store store = {.checksum = 1, .chunk_rows = 1 + (1 << 16) / (w->s->row * 4)}, keys = {.checksum = 1, .chunk_rows = 1024};
    char *path = NULL;
    for (int k = 0;; k++) {
        free(path);
        TRY(str_format(&path, "%s.r%d-%d.h5", w->s->path, w->comm->rank, k));
        if (!io_file_exists(path))
            break;
    }
    int rc = io_h5_create_safe(&w->f, path);
    free(path);
    TRY(rc);
    TRY(io_h5_create_rows(w->f, "row", DTYPE_F32, 0, 1, &w->s->row, &store));
    w->saved = clock_now();
    return io_h5_create_rows(w->f, "key", DTYPE_U8, 0, 1, &key_dim, &keys);
}

static int save(Filling *w)
{
    if (!w->unsaved)
        return 0;
    TRY(w->published ? io_h5_save(w->f) : io_h5_publish(w->f));
    w->published = 1;
    w->unsaved = 0;
    w->saved = clock_now();
    return 0;
}

/* The next few batches of this rank's share. */
static int fill_round(Filling *w)
{
    const TrainCacheSpec *s = w->s;
    int64_t n = w->n - w->done, most = (int64_t)s->batch * ROUND_BATCHES;
    n = n < most ? n : most;
    if (!n)
        return 0;
    for (int64_t i = 0; i < n; i += s->batch)
        TRY(s->compute(s->ctx, w->which + w->done + i, (int)(n - i < s->batch ? n - i : s->batch), w->rows + i * s->row));
    for (int64_t i = 0; i < n; i++)
        memcpy(w->keys + i * HASH_SIZE, s->key[w->which[w->done + i]], HASH_SIZE);
    if (!w->f)
        TRY(create_part(w));
    TRY(io_h5_append(w->f, "row", DTYPE_F32, n, w->rows));
    TRY(io_h5_append(w->f, "key", DTYPE_U8, n, w->keys));
    w->done += n;
    w->unsaved += n;
    return w->unsaved * s->row * 4 >= SAVE_BYTES || clock_now() - w->saved > SAVE_SECONDS ? save(w) : 0;
}

/* Rounds of all ranks together, so that a signal or an error of one ends all; what was computed is saved in every case. */
static int fill_share(Filling *w, int64_t total, int64_t rounds, int *stop)
{
    Progress bar;
    int rc = 0;
    progress_init(&bar, w->s->label, 0, total, w->comm->rank == 0);
    for (int64_t r = 0; r < rounds && !*stop; r++) {
        rc = fill_round(w);
        *stop = comm_any(w->comm, signal_stop() | (rc < 0 ? FAILED : 0));
        TRY(*stop < 0 ? *stop : 0);
        int64_t done = (int64_t)((double)total * (double)(r + 1) / (double)rounds);
        progress_update(&bar, done, "%.1f/s", progress_rate(&bar, done));
    }
    progress_break(&bar);
    if (rc >= 0)
        rc = save(w);
    else if (w->f && w->unsaved && (w->published ? io_h5_save(w->f) : io_h5_publish(w->f)) < 0)
        log_warn("%s: the rows computed last are not saved", io_h5_path(w->f));
    return rc;
}

/* The ranks that fill one folder take the missing rows in stretches. */
static int fill_missing(TrainCache *c, Comm *comm, const int64_t *missing, int64_t n, int *stop)
{
    const TrainCacheSpec *s = c->spec;
    int64_t ranks = s->per_node ? comm->local_size : comm->size, me = s->per_node ? comm->local_rank : comm->rank;
    int64_t from = n * me / ranks, most = (int64_t)s->batch * ROUND_BATCHES;
    Filling w = {.s = s, .comm = comm, .which = missing + from, .n = n * (me + 1) / ranks - from};
    int64_t most_rows[2] = {w.n, n}; /* nodes may miss different rows */
    w.rows = malloc((size_t)(most * s->row) * sizeof *w.rows);
    w.keys = malloc((size_t)most * HASH_SIZE);
    int rc = comm_agree(comm, w.rows && w.keys ? 0 : err_set(ERR_NOMEM, "cache: out of memory"));
    if (rc >= 0)
        rc = comm_max_i64(comm, most_rows, 2);
    if (rc >= 0)
        rc = fill_share(&w, most_rows[1], (most_rows[0] + most - 1) / most, stop);
    if (w.f) {
        int closed = io_h5_close(w.f);
        rc = rc < 0 ? rc : closed;
    }
    free(w.rows);
    free(w.keys);
    return comm_agree(comm, rc);
}

/* Waits while another run fills caches in the same folder. */
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

/* Files whose last save was cut off. With the lock held. */
static int recover_parts(const TrainCacheSpec *s)
{
    char *dir = NULL;
    IoNames names = {0};
    const char *base = io_path_name(s->path);
    int rc = io_path_dir(&dir, s->path);
    if (rc >= 0)
        rc = io_dir_remove_temps(dir);
    if (rc >= 0)
        rc = io_dir_list(&names, dir, ".h5");
    for (int i = 0; rc >= 0 && i < names.count; i++) {
        char *path;
        if (!str_starts_with(names.items[i], base))
            continue;
        rc = io_path_join(&path, dir, names.items[i]);
        if (rc >= 0 && io_h5_recover(path) < 0)
            log_warn("%s", err_message());
        free(path);
    }
    io_names_deinit(&names);
    free(dir);
    return rc;
}

static int fill(TrainCache *c, Comm *comm)
{
    const TrainCacheSpec *s = c->spec;
    IoLock *lock = NULL;
    int64_t *missing = NULL, n = 0;
    int leader = s->per_node ? comm->local_rank == 0 : comm->rank == 0, stop = 0;
    int rc = leader ? lock_folder(s, &lock) : 0;
    if (rc >= 0 && leader)
        rc = recover_parts(s);
    rc = comm_agree(comm, rc);
    if (rc >= 0)
        rc = comm_agree(comm, find_rows(c, leader, &missing, &n));
    if (rc >= 0)
        rc = fill_missing(c, comm, missing, n, &stop);
    free(missing);
    int64_t left = 0;
    if (rc >= 0 && !stop)
        rc = comm_agree(comm, find_rows(c, leader, NULL, &left));
    io_lock_release(lock);
    if (rc >= 0 && stop)
        return err_set(ERR_STOPPED, "stopped by %s; the %s so far are kept: run again to continue", signal_name(stop & ~FAILED), s->label);
    if (rc >= 0 && left)
        rc = err_set(ERR_IO, "%s: %lld rows are not there that were just written; is the folder shared by all ranks (cache_scope)?", s->path,
                     (long long)left);
    return comm_agree(comm, rc);
}

static int find_or_fill(TrainCache *c, Comm *comm)
{
    int64_t missing = 0;
    TRY(comm_agree(comm, find_rows(c, 0, NULL, &missing)));
    TRY(comm_max_i64(comm, &missing, 1)); /* ranks may see different moments of files that another run fills */
    return missing ? fill(c, comm) : 0;
}

/* ---- reading ---- */

typedef struct {
    Place p;
    int64_t i;
} Wanted;

static int by_place(const void *a, const void *b)
{
    const Wanted *x = a, *y = b;
    if (x->p.part != y->p.part)
        return x->p.part < y->p.part ? -1 : 1;
    return (x->p.at > y->p.at) - (x->p.at < y->p.at);
}

/* In the order of the files' rows, so that each block is read once. */
static int copy_rows(TrainCache *c, Wanted *w, float *rows)
{
    int64_t have = -1, total = 0; /* first row in `rows` */
    int32_t part = -1;
    for (int64_t i = 0; i < c->count; i++)
        w[i] = (Wanted){c->place[i], i};
    qsort(w, (size_t)c->count, sizeof *w, by_place);
    for (int64_t k = 0; k < c->count; k++) {
        int64_t block = w[k].p.at / COPY_ROWS * COPY_ROWS;
        if (w[k].p.part != part) {
            IoH5Info info;
            c->bad = part = w[k].p.part;
            TRY(io_h5_info(c->part[part], "row", &info));
            total = info.dim[0];
            have = -1;
        }
        if (block != have) {
            TRY(io_h5_read_rows(c->part[part], "row", DTYPE_F32, block, total - block < COPY_ROWS ? total - block : COPY_ROWS, rows));
            have = block;
        }
        memcpy(c->memory + w[k].i * c->row, rows + (w[k].p.at - block) * c->row, (size_t)c->row * sizeof(float));
    }
    c->bad = -1;
    return 0;
}

static int load_memory(TrainCache *c)
{
    c->bad = -1;
    if (c->count * c->row * 4 > MEMORY_MAX)
        return 0;
    c->memory = malloc((size_t)(c->count * c->row) * sizeof(float) + 1);
    if (!c->memory)
        return 0;
    float *rows = malloc((size_t)(COPY_ROWS * c->row) * sizeof *rows);
    Wanted *w = malloc((size_t)(c->count + 1) * sizeof *w);
    int rc = rows && w ? copy_rows(c, w, rows) : err_set(ERR_NOMEM, "cache: out of memory");
    free(rows);
    free(w);
    return rc;
}

/* Damaged rows are found on reading; their files are then made anew, as often as there are such files. */
static int open_sound(TrainCache *c, Comm *comm)
{
    for (int64_t damaged = 1; damaged;) {
        TRY(find_or_fill(c, comm));
        int rc = load_memory(c);
        damaged = rc < 0 && c->bad >= 0;
        if (damaged) {
            log_warn("cache %s is damaged and is made anew: %s", c->path[c->bad], err_message());
            rc = io_file_remove(c->path[c->bad]);
        }
        TRY(comm_agree(comm, rc));
        TRY(comm_max_i64(comm, &damaged, 1));
    }
    return 0;
}

int train_cache_open(TrainCache **out, const TrainCacheSpec *s, Comm *comm)
{
    TrainCache *c = calloc(1, sizeof *c);
    int rc = c ? 0 : err_set(ERR_NOMEM, "cache: out of memory");
    if (rc >= 0) {
        c->spec = s;
        c->row = s->row;
        c->count = s->count;
        c->place = malloc((size_t)(s->count + 1) * sizeof *c->place);
        rc = c->place ? 0 : err_set(ERR_NOMEM, "cache: out of memory");
    }
    rc = comm_agree(comm, rc);
    if (rc >= 0)
        rc = open_sound(c, comm);
    if (rc < 0) {
        train_cache_close(c);
        return rc;
    }
    c->spec = NULL;
    *out = c;
    return 0;
}

void train_cache_close(TrainCache *c)
{
    if (!c)
        return;
    close_parts(c);
    free(c->place);
    free(c);
}

int train_cache_read(TrainCache *c, int64_t i, float *out)
{
    if (c->memory) {
        memcpy(out, c->memory + i * c->row, (size_t)c->row * sizeof *out);
        return 0;
    }
    return io_h5_read_rows(c->part[c->place[i].part], "row", DTYPE_F32, c->place[i].at, 1, out);
}
