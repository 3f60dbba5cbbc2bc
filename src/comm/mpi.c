#include <mpi.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "comm/guard.h"
#include "comm/mpi_link.h"

/* Elements or bytes per MPI call: counts are int, and huge single messages need as much again inside MPI. */
enum { CHUNK = 1 << 20, SPINS = 500, TAG_DATA = 1, TAG_ASK = 2, TAG_ANSWER = 3 };
static const long POLL_NS = 500000;

typedef struct {
    MPI_Comm comm;
    int threads; /* MPI_THREAD_MULTIPLE is there */
    atomic_int abandoned; /* MPI still has memory of a caller who waits no more */
} State;

static int check(int code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING];
    int n = 0;
    if (code == MPI_SUCCESS)
        return 0;
    MPI_Error_string(code, text, &n);
    return err_set(ERR_BACKEND, "%s: %.*s", what, n, text);
}

static MPI_Comm handle(const Comm *c)
{
    return ((State *)c->state)->comm;
}

/* Until r is done, or the watchdog says that it never will be: then MPI keeps it. Waiting for ranks that are not there yet may last and
 * leaves the core to others; data on its way comes in rounds that want to be driven on. */
static int wait_for(Comm *c, MPI_Request *r, int may_sleep, const char *what)
{
    for (int k = 1;; k++) {
        int done = 0;
        TRY(check(MPI_Test(r, &done, MPI_STATUS_IGNORE), what));
        if (done)
            return 0;
        if (k % SPINS == 0)
            TRY(comm_guard_check(c));
        if (may_sleep && k > SPINS)
            nanosleep(&(struct timespec){0, POLL_NS / 10}, NULL);
        else
            sched_yield();
    }
}

/* Under a watchdog the data moves only when all ranks are there. */
static int meet(Comm *c)
{
    MPI_Request r;
    if (!c->guard)
        return 0;
    TRY(comm_guard_enter(c));
    TRY(check(MPI_Ibarrier(handle(c), &r), "MPI_Ibarrier"));
    return wait_for(c, &r, 1, "MPI_Ibarrier");
}

static int leave(Comm *c, int rc)
{
    comm_guard_leave(c);
    return rc;
}

static int barrier(Comm *c)
{
    TRY(meet(c));
    return leave(c, c->guard ? 0 : check(MPI_Barrier(handle(c)), "MPI_Barrier"));
}

/* Of a call that was just begun. When it is abandoned the watchdog's messages end too: they would drive MPI on, which writes to memory that is the
 * caller's again. The second check waits for those that are being sent. */
static int end(Comm *c, int code, MPI_Request *r, const char *what)
{
    TRY(check(code, what));
    int rc = wait_for(c, r, 0, what);
    if (rc != ERR_PEER)
        return rc;
    ((State *)c->state)->abandoned = 1;
    return comm_guard_check(c);
}

static int chunk(int64_t left)
{
    return left < CHUNK ? (int)left : CHUNK;
}

static int bcast(Comm *c, void *data, int64_t bytes, int root)
{
    char *p = data;
    int rc = 0;
    TRY(meet(c));
    for (int n; rc >= 0 && bytes > 0; p += n, bytes -= n) {
        n = chunk(bytes);
        MPI_Request r;
        rc = end(c, MPI_Ibcast(p, n, MPI_BYTE, root, handle(c), &r), &r, "MPI_Ibcast");
    }
    return leave(c, rc);
}

static MPI_Op mpi_op(CommOp op)
{
    return op == COMM_SUM ? MPI_SUM : op == COMM_MIN ? MPI_MIN : MPI_MAX;
}

static int reduce_i64(Comm *c, int64_t *x, int64_t n, CommOp op)
{
    int rc = 0;
    TRY(meet(c));
    for (int m; rc >= 0 && n > 0; x += m, n -= m) {
        m = chunk(n);
        MPI_Request r;
        rc = end(c, MPI_Iallreduce(MPI_IN_PLACE, x, m, MPI_INT64_T, mpi_op(op), handle(c), &r), &r, "MPI_Iallreduce");
    }
    return leave(c, rc);
}

static int reduce_f64(Comm *c, double *x, int64_t n, CommOp op)
{
    int rc = 0;
    TRY(meet(c));
    for (int m; rc >= 0 && n > 0; x += m, n -= m) {
        m = chunk(n);
        MPI_Request r;
        rc = end(c, MPI_Iallreduce(MPI_IN_PLACE, x, m, MPI_DOUBLE, mpi_op(op), handle(c), &r), &r, "MPI_Iallreduce");
    }
    return leave(c, rc);
}

static int send(Comm *c, const void *data, int64_t bytes, int to)
{
    const char *p = data;
    for (int n; bytes > 0; p += n, bytes -= n) {
        n = chunk(bytes);
        MPI_Request r;
        TRY(end(c, MPI_Isend(p, n, MPI_BYTE, to, TAG_DATA, handle(c), &r), &r, "MPI_Isend"));
    }
    return 0;
}

static int recv(Comm *c, void *data, int64_t bytes, int from)
{
    char *p = data;
    for (int n; bytes > 0; p += n, bytes -= n) {
        n = chunk(bytes);
        MPI_Request r;
        TRY(end(c, MPI_Irecv(p, n, MPI_BYTE, from, TAG_DATA, handle(c), &r), &r, "MPI_Irecv"));
    }
    return 0;
}

static int gather_blocks(Comm *c, const void *mine, int64_t bytes, void *all, int root)
{
    if (c->rank != root && bytes > CHUNK)
        return send(c, mine, bytes, root);
    if (bytes <= CHUNK) {
        MPI_Request k;
        return end(c, MPI_Igather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, root, handle(c), &k), &k, "MPI_Igather");
    }
    for (int r = 0; r < c->size; r++) {
        char *to = (char *)all + r * bytes;
        if (r == root)
            memmove(to, mine, (size_t)bytes);
        else
            TRY(recv(c, to, bytes, r));
    }
    return 0;
}

static int gather(Comm *c, const void *mine, int64_t bytes, void *all, int root)
{
    TRY(meet(c));
    return leave(c, gather_blocks(c, mine, bytes, all, root));
}

/* Rank 0's thread. It looks for questions and sleeps in between: a blocking receive would spin on a core. */
static void *serve(void *arg)
{
    CommService *s = arg;
    MPI_Comm comm = *(MPI_Comm *)s->state;
    int64_t ask[COMM_WORDS], answer[COMM_WORDS];
    while (!atomic_load(&s->stop)) {
        int there = 0;
        MPI_Status st;
        if (MPI_Iprobe(MPI_ANY_SOURCE, TAG_ASK, comm, &there, &st) != MPI_SUCCESS || !there) {
            nanosleep(&(struct timespec){0, POLL_NS}, NULL);
            continue;
        }
        /* A rank that dies in between must not end the service to the others. */
        if (MPI_Recv(ask, COMM_WORDS, MPI_INT64_T, st.MPI_SOURCE, TAG_ASK, comm, MPI_STATUS_IGNORE) != MPI_SUCCESS)
            continue;
        memset(answer, 0, sizeof answer);
        comm_service_reply(s, st.MPI_SOURCE, ask, answer);
        MPI_Send(answer, COMM_WORDS, MPI_INT64_T, st.MPI_SOURCE, TAG_ANSWER, comm);
    }
    return NULL;
}

static int service_create(Comm *c, CommService *s)
{
    State *state = c->state;
    s->local = !state->threads || c->size == 1;
    if (s->local)
        return 0;
    MPI_Comm *own = malloc(sizeof *own);
    if (!own)
        return err_set(ERR_NOMEM, "out of memory");
    s->state = own;
    TRY(check(MPI_Comm_dup(state->comm, own), "MPI_Comm_dup"));
    MPI_Comm_set_errhandler(*own, MPI_ERRORS_RETURN);
    if (c->rank == 0) {
        if (pthread_create(&s->thread, NULL, serve, s) != 0)
            return err_set(ERR_BACKEND, "cannot start a thread");
        s->serving = 1;
    }
    return 0;
}

static int service_ask(CommService *s, const int64_t *ask, int64_t *answer)
{
    MPI_Comm comm = *(MPI_Comm *)s->state;
    MPI_Request r;
    int done = 0;
    double start = MPI_Wtime();
    TRY(check(MPI_Irecv(answer, COMM_WORDS, MPI_INT64_T, 0, TAG_ANSWER, comm, &r), "MPI_Irecv"));
    TRY(check(MPI_Send(ask, COMM_WORDS, MPI_INT64_T, 0, TAG_ASK, comm), "MPI_Send"));
    for (;;) {
        TRY(check(MPI_Test(&r, &done, MPI_STATUS_IGNORE), "MPI_Test"));
        if (done)
            return 0;
        if (MPI_Wtime() - start > s->patience) {
            MPI_Cancel(&r);
            MPI_Request_free(&r);
            return err_set(ERR_PEER, "rank 0 does not answer");
        }
        nanosleep(&(struct timespec){0, POLL_NS / 4}, NULL);
    }
}

static int service_destroy(CommService *s, int abandon)
{
    int rc = s->local || abandon ? 0 : barrier(s->comm); /* every rank has its last answer */
    atomic_store(&s->stop, 1);
    if (s->serving)
        pthread_join(s->thread, NULL);
    MPI_Comm *own = s->state;
    if (own && !abandon) {
        int freed = check(MPI_Comm_free(own), "MPI_Comm_free");
        rc = rc < 0 ? rc : freed;
    }
    free(own);
    return rc;
}

static void abort_run(Comm *c, int exit_code)
{
    MPI_Abort(handle(c), exit_code);
    exit(exit_code); /* not reached */
}

/* NULL where MPI may not be called by two threads. */
static int link_open(Comm *c, CommLink **out)
{
    State *s = c->state;
    *out = NULL;
    return s->threads ? mpi_link_open(out, s->comm, c->size, &s->abandoned) : 0;
}

/* MPI_Finalize would wait for ranks that are lost. */
static void deinit(Comm *c)
{
    State *s = c->state;
    int lost = comm_lost(c);
    comm_guard_destroy(c, lost);
    if (lost)
        return;
    MPI_Comm_free(&s->comm);
    free(s);
    MPI_Finalize();
}

static const void *mpi_of(const Comm *c) { return &((const State *)c->state)->comm; }

static const CommTable table = {"mpi", barrier,        bcast,       reduce_i64,      reduce_f64, gather, send,
                                recv,  service_create, service_ask, service_destroy, link_open, mpi_of, abort_run, deinit};

void comm_library(char *out, int64_t size)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int n = 0;
    MPI_Get_library_version(text, &n);
    snprintf(out, (size_t)size, "%.*s", (int)strcspn(text, ",\n"), text);
}

static int local_place(Comm *c, MPI_Comm world)
{
    MPI_Comm host;
    TRY(check(MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host), "MPI_Comm_split_type"));
    MPI_Comm_rank(host, &c->local_rank);
    MPI_Comm_size(host, &c->local_size);
    return check(MPI_Comm_free(&host), "MPI_Comm_free");
}

int comm_init_mpi(Comm *c, int *argc, char ***argv)
{
    int provided = 0;
    State *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(ERR_NOMEM, "out of memory");
    if (MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) {
        free(s);
        return err_set(ERR_BACKEND, "MPI cannot be started");
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    int rc = check(MPI_Comm_dup(MPI_COMM_WORLD, &s->comm), "MPI_Comm_dup");
    if (rc < 0) {
        free(s);
        return rc;
    }
    s->threads = provided >= MPI_THREAD_MULTIPLE;
    c->fn = &table;
    c->state = s;
    MPI_Comm_rank(s->comm, &c->rank);
    MPI_Comm_size(s->comm, &c->size);
    return local_place(c, s->comm);
}
