#include "train/cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/progress.h"
#include "io/file.h"
#include "io/h5.h"

#define MEMORY_MAX ((int64_t)2 << 30)
enum { COPY_ROWS = 256 };

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

/* The keys of the file at path, sorted; *n = 0 where there is no usable file. */
static int read_keys(const TrainCacheSpec *s, Entry **out, int64_t *n)
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
static int find_missing(const TrainCacheSpec *s, int64_t *at, int64_t **missing, int64_t *nmissing, int64_t *nold)
{
    Entry *old = NULL, *fresh = NULL;
    int64_t k = 0;
    TRY(read_keys(s, &old, nold));
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
    IoH5Store store = {0};
    store.chunk_rows = 1 + (1 << 16) / (s->row * 4);
    IoH5Store keys = {.chunk_rows = 1024};
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

static int compute_missing(const TrainCacheSpec *s, Comm *comm, const int64_t *missing, int64_t n, int64_t nold)
{
    IoH5 *f = NULL;
    int64_t round = (int64_t)s->batch * comm->size;
    float *mine = malloc((size_t)(s->batch * s->row) * sizeof *mine);
    float *all = comm->rank ? NULL : malloc((size_t)(round * s->row) * sizeof *all);
    Progress bar;
    progress_init(&bar, s->label, 0, n, comm->rank == 0);
    int rc = mine && (all || comm->rank) ? 0 : err_set(ERR_NOMEM, "cache: out of memory");
    if (rc >= 0 && comm->rank == 0)
        rc = begin_file(s, &f, nold);
    rc = comm_agree(comm, rc);
    for (int64_t at = 0; rc >= 0 && at < n; at += round) {
        int64_t my = at + (int64_t)comm->rank * s->batch, k = n - my;
        k = k < 0 ? 0 : k > s->batch ? s->batch : k;
        memset(mine, 0, (size_t)(s->batch * s->row) * sizeof *mine);
        if (k)
            rc = s->compute(s->ctx, missing + my, (int)k, mine);
        TRY_GOTO(comm_agree(comm, rc));
        TRY_GOTO(comm_gather(comm, mine, s->batch * s->row * (int64_t)sizeof *mine, all, 0));
        int64_t m = n - at < round ? n - at : round;
        if (comm->rank == 0)
            rc = append_round(s, f, all, missing, at, m);
        TRY_GOTO(comm_agree(comm, rc));
        progress_update(&bar, at + m, "%.1f/s", progress_rate(&bar, at + m));
    }
    if (rc >= 0 && f)
        rc = io_h5_commit(&f);
    rc = comm_agree(comm, rc);
done:
    progress_break(&bar);
    if (f)
        io_h5_close(f);
    free(mine);
    free(all);
    return rc;
}

static int load_memory(TrainCache *c)
{
    if (c->count * c->row * 4 > MEMORY_MAX)
        return 0;
    c->memory = malloc((size_t)(c->count * c->row) * sizeof(float) + 1);
    if (!c->memory)
        return 0;
    float *rows = malloc((size_t)(COPY_ROWS * c->row) * sizeof *rows);
    int64_t *order = malloc((size_t)(c->count + 1) * sizeof *order);
    int rc = rows && order ? 0 : err_set(ERR_NOMEM, "cache: out of memory");
    int64_t have = -1; /* first file row in `rows` */
    for (int64_t i = 0; rc >= 0 && i < c->count; i++) {
        int64_t block = c->at[i] / COPY_ROWS * COPY_ROWS;
        if (block != have) {
            IoH5Info info;
            rc = io_h5_info(c->h5, "row", &info);
            int64_t n = rc < 0 || info.dim[0] - block > COPY_ROWS ? COPY_ROWS : info.dim[0] - block;
            if (rc >= 0)
                rc = io_h5_read_rows(c->h5, "row", DTYPE_F32, block, n, rows);
            have = block;
        }
        if (rc >= 0)
            memcpy(c->memory + i * c->row, rows + (c->at[i] - block) * c->row, (size_t)c->row * sizeof(float));
    }
    free(rows);
    free(order);
    return rc;
}

int train_cache_open(TrainCache **out, const TrainCacheSpec *s, Comm *comm)
{
    int64_t *missing = NULL, nmissing = 0, nold = 0;
    TrainCache *c = calloc(1, sizeof *c);
    int rc = c ? 0 : err_set(ERR_NOMEM, "cache: out of memory");
    if (rc >= 0) {
        c->row = s->row;
        c->count = s->count;
        c->at = malloc((size_t)(s->count + 1) * sizeof *c->at);
        rc = c->at ? find_missing(s, c->at, &missing, &nmissing, &nold) : err_set(ERR_NOMEM, "cache: out of memory");
    }
    TRY_GOTO(comm_agree(comm, rc));
    if (nmissing) {
        TRY_GOTO(compute_missing(s, comm, missing, nmissing, nold));
        free(missing);
        missing = NULL;
        rc = find_missing(s, c->at, &missing, &nmissing, &nold);
        if (rc >= 0 && nmissing)
            rc = err_set(ERR_IO, "%s: %lld rows are missing after writing", s->path, (long long)nmissing);
        TRY_GOTO(comm_agree(comm, rc));
    }
    rc = io_h5_open(&c->h5, s->path);
    if (rc >= 0)
        rc = load_memory(c);
    TRY_GOTO(comm_agree(comm, rc));
    *out = c;
    c = NULL;
done:
    free(missing);
    train_cache_close(c);
    return rc;
}

void train_cache_close(TrainCache *c)
{
    if (!c)
        return;
    if (c->h5)
        io_h5_close(c->h5);
    free(c->at);
    free(c->memory);
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
