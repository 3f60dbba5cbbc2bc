#include "comm/comm.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "comm/comm_impl.h"
#include "comm/guard.h"

const void *comm_mpi(const Comm *c)
{
    return c->fn->mpi ? c->fn->mpi(c) : NULL;
}

int comm_barrier(Comm *c)
{
    return c->fn->barrier(c);
}

int comm_bcast(Comm *c, void *data, int64_t bytes, int root)
{
    return c->fn->bcast(c, data, bytes, root);
}

int comm_sum_i64(Comm *c, int64_t *x, int64_t n)
{
    return c->fn->reduce_i64(c, x, n, COMM_SUM);
}

int comm_max_i64(Comm *c, int64_t *x, int64_t n)
{
    return c->fn->reduce_i64(c, x, n, COMM_MAX);
}

int comm_min_f64(Comm *c, double *x, int64_t n)
{
    return c->fn->reduce_f64(c, x, n, COMM_MIN);
}

int comm_max_f64(Comm *c, double *x, int64_t n)
{
    return c->fn->reduce_f64(c, x, n, COMM_MAX);
}

int comm_gather(Comm *c, const void *mine, int64_t bytes, void *all, int root)
{
    return c->fn->gather(c, mine, bytes, all, root);
}

int comm_allgather(Comm *c, const void *mine, int64_t bytes, void *all)
{
    TRY(c->fn->gather(c, mine, bytes, all, 0));
    return c->fn->bcast(c, all, bytes * c->size, 0);
}

/* All ranks learn that one of them is out of memory before any of them waits for it. */
static int alloc_agreed(Comm *c, void **out, int64_t bytes)
{
    *out = malloc(bytes > 0 ? (size_t)bytes : 1);
    int rc = comm_agree(c, *out ? 0 : err_set(ERR_NOMEM, "out of memory for %lld bytes", (long long)bytes));
    if (rc < 0) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

int comm_sum_f64(Comm *c, double *x, int64_t n)
{
    void *buf;
    if (c->size == 1)
        return 0;
    TRY(alloc_agreed(c, &buf, c->rank == 0 ? n * c->size * 8 : 0));
    double *all = buf;
    int rc = comm_gather(c, x, n * 8, all, 0);
    if (rc == 0 && c->rank == 0) {
        for (int64_t i = 0; i < n; i++) {
            double sum = all[i];
            for (int r = 1; r < c->size; r++)
                sum += all[r * n + i];
            x[i] = sum;
        }
    }
    free(buf);
    TRY(rc);
    return comm_bcast(c, x, n * 8, 0);
}

int comm_gather_any(Comm *c, const void *mine, int64_t bytes, void **all, int64_t *sizes, int root)
{
    int64_t total = 0;
    void *buf;
    *all = NULL;
    TRY(comm_gather(c, &bytes, sizeof bytes, sizes, root));
    if (c->rank == root)
        for (int r = 0; r < c->size; r++)
            total += sizes[r];
    TRY(alloc_agreed(c, &buf, total));
    if (c->rank != root) {
        free(buf);
        return c->fn->send(c, mine, bytes, root);
    }
    char *p = buf;
    int rc = 0;
    for (int r = 0; rc == 0 && r < c->size; r++) {
        if (r != root)
            rc = c->fn->recv(c, p, sizes[r], r);
        else if (bytes)
            memcpy(p, mine, (size_t)bytes);
        p += sizes[r];
    }
    if (rc < 0)
        free(buf);
    else
        *all = buf;
    return rc;
}

enum { MESSAGE_MAX = 2048 };

int comm_agree(Comm *c, int rc)
{
    if (c->size == 1)
        return rc < 0 ? rc : 0;
    /* The first rank that failed, or none. */
    int64_t first = rc < 0 ? c->size - c->rank : 0;
    char mine[MESSAGE_MAX], text[MESSAGE_MAX];
    strncpy(mine, err_message(), sizeof mine - 1); /* the calls below may change it */
    mine[sizeof mine - 1] = 0;
    TRY(comm_max_i64(c, &first, 1));
    if (first == 0)
        return 0;
    int root = c->size - (int)first;
    memcpy(text, mine, sizeof text);
    TRY(comm_bcast(c, text, sizeof text, root));
    text[sizeof text - 1] = 0;
    if (rc < 0)
        return err_set(rc, "%s", mine);
    return err_set(ERR_PEER, "rank %d: %s", root, text);
}

int comm_any(Comm *c, int flags)
{
    enum { BITS = 31 };
    int64_t bit[BITS];
    if (flags < 0)
        return err_set(ERR_RANGE, "flags are negative");
    for (int i = 0; i < BITS; i++)
        bit[i] = flags >> i & 1;
    TRY(comm_max_i64(c, bit, BITS));
    flags = 0;
    for (int i = 0; i < BITS; i++)
        flags |= (int)bit[i] << i;
    return flags;
}

void comm_abort(Comm *c, int exit_code)
{
    c->fn->abort(c, exit_code);
}

void comm_deinit(Comm *c)
{
    if (c->fn)
        c->fn->deinit(c);
    *c = (Comm){0};
}

void comm_give_up(Comm *c)
{
    int rank = c->rank;
    comm_guard_destroy(c, 1);
    comm_init_self(c);
    c->rank = rank;
}

int comm_service_create(CommService **out, Comm *c, CommReply reply, void *ctx, double patience)
{
    CommService *s = calloc(1, sizeof *s);
    *out = NULL;
    int rc = comm_agree(c, s ? 0 : err_set(ERR_NOMEM, "out of memory"));
    if (rc == 0) {
        s->comm = c;
        s->reply = reply;
        s->ctx = ctx;
        s->patience = patience;
        pthread_mutex_init(&s->asking, NULL);
        pthread_mutex_init(&s->replying, NULL);
        rc = comm_agree(c, c->fn->service_create(c, s));
    }
    if (rc < 0)
        free(s);
    else
        *out = s;
    return rc;
}

void comm_service_reply(CommService *s, int from, const int64_t *ask, int64_t *answer)
{
    pthread_mutex_lock(&s->replying);
    s->reply(s->ctx, from, ask, answer);
    pthread_mutex_unlock(&s->replying);
}

int comm_service_is_local(const CommService *s)
{
    return s->local;
}

int comm_service_ask(CommService *s, const int64_t ask[COMM_WORDS], int64_t answer[COMM_WORDS])
{
    if (s->local || s->comm->rank == 0) {
        comm_service_reply(s, s->comm->rank, ask, answer);
        return 0;
    }
    pthread_mutex_lock(&s->asking);
    int rc = s->comm->fn->service_ask(s, ask, answer);
    pthread_mutex_unlock(&s->asking);
    return rc;
}

static int end_service(CommService *s, int abandon)
{
    if (!s)
        return 0;
    int rc = s->comm->fn->service_destroy(s, abandon);
    pthread_mutex_destroy(&s->asking);
    pthread_mutex_destroy(&s->replying);
    free(s);
    return rc;
}

int comm_service_destroy(CommService *s)
{
    return end_service(s, 0);
}

void comm_service_abandon(CommService *s)
{
    end_service(s, 1);
}
