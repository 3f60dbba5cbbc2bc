#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "comm/comm_impl.h"

/* Elements or bytes per MPI call: counts are int, and huge single messages need as much again inside MPI. */
enum { CHUNK = 1 << 20, TAG_DATA = 1, TAG_ASK = 2, TAG_ANSWER = 3 };
static const long POLL_NS = 500000;

typedef struct {
    MPI_Comm comm;
    int threads; /* MPI_THREAD_MULTIPLE is there */
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

static int barrier(Comm *c)
{
    return check(MPI_Barrier(handle(c)), "MPI_Barrier");
}

static int chunk(int64_t left)
{
    return left < CHUNK ? (int)left : CHUNK;
}

static int bcast(Comm *c, void *data, int64_t bytes, int root)
{
    char *p = data;
    for (int n; bytes > 0; p += n, bytes -= n) {
        n = chunk(bytes);
        TRY(check(MPI_Bcast(p, n, MPI_BYTE, root, handle(c)), "MPI_Bcast"));
    }
    return 0;
}

static MPI_Op mpi_op(CommOp op)
{
    return op == COMM_SUM ? MPI_SUM : op == COMM_MIN ? MPI_MIN : MPI_MAX;
}

static int reduce_i64(Comm *c, int64_t *x, int64_t n, CommOp op)
{
    for (int m; n > 0; x += m, n -= m) {
        m = chunk(n);
        TRY(check(MPI_Allreduce(MPI_IN_PLACE, x, m, MPI_INT64_T, mpi_op(op), handle(c)), "MPI_Allreduce"));
    }
    return 0;
}

static int reduce_f64(Comm *c, double *x, int64_t n, CommOp op)
{
    for (int m; n > 0; x += m, n -= m) {
        m = chunk(n);
        TRY(check(MPI_Allreduce(MPI_IN_PLACE, x, m, MPI_DOUBLE, mpi_op(op), handle(c)), "MPI_Allreduce"));
    }
    return 0;
}

static int send(Comm *c, const void *data, int64_t bytes, int to)
{
    const char *p = data;
    for (int n; bytes > 0; p += n, bytes -= n) {
        n = chunk(bytes);
        TRY(check(MPI_Send(p, n, MPI_BYTE, to, TAG_DATA, handle(c)), "MPI_Send"));
    }
    return 0;
}

static int recv(Comm *c, void *data, int64_t bytes, int from)
{
    char *p = data;
    for (int n; bytes > 0; p += n, bytes -= n) {
        n = chunk(bytes);
        TRY(check(MPI_Recv(p, n, MPI_BYTE, from, TAG_DATA, handle(c), MPI_STATUS_IGNORE), "MPI_Recv"));
    }
    return 0;
}

static int gather(Comm *c, const void *mine, int64_t bytes, void *all, int root)
{
    if (c->rank != root && bytes > CHUNK)
        return send(c, mine, bytes, root);
    if (bytes <= CHUNK)
        return check(MPI_Gather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, root, handle(c)), "MPI_Gather");
    for (int r = 0; r < c->size; r++) {
        char *to = (char *)all + r * bytes;
        if (r == root)
            memmove(to, mine, (size_t)bytes);
        else
            TRY(recv(c, to, bytes, r));
    }
    return 0;
}

/* Rank 0's thread. It looks for questions and sleeps in between: a blocking receive would spin on a core. */
static void *serve(void *arg)
{
    CommCounter *k = arg;
    MPI_Comm comm = *(MPI_Comm *)k->state;
    while (!atomic_load(&k->stop)) {
        int there = 0;
        MPI_Status st;
        if (MPI_Iprobe(MPI_ANY_SOURCE, TAG_ASK, comm, &there, &st) != MPI_SUCCESS)
            break;
        if (!there) {
            nanosleep(&(struct timespec){0, POLL_NS}, NULL);
            continue;
        }
        char ask;
        if (MPI_Recv(&ask, 1, MPI_BYTE, st.MPI_SOURCE, TAG_ASK, comm, MPI_STATUS_IGNORE) != MPI_SUCCESS)
            break;
        int64_t answer = comm_counter_take(k);
        if (MPI_Send(&answer, 1, MPI_INT64_T, st.MPI_SOURCE, TAG_ANSWER, comm) != MPI_SUCCESS)
            break;
    }
    return NULL;
}

static int counter_create(Comm *c, CommCounter *k)
{
    State *s = c->state;
    pthread_mutex_init(&k->asking, NULL);
    k->fallback = !s->threads;
    if (k->fallback)
        return 0;
    MPI_Comm *own = malloc(sizeof *own);
    if (!own)
        return err_set(ERR_NOMEM, "out of memory");
    k->state = own;
    TRY(check(MPI_Comm_dup(s->comm, own), "MPI_Comm_dup"));
    if (c->rank == 0 && c->size > 1) {
        if (pthread_create(&k->thread, NULL, serve, k) != 0)
            return err_set(ERR_BACKEND, "cannot start a thread");
        k->serving = 1;
    }
    return 0;
}

static int ask(CommCounter *k, int64_t *out)
{
    MPI_Comm comm = *(MPI_Comm *)k->state;
    MPI_Request r;
    char q = 0;
    int done = 0;
    TRY(check(MPI_Irecv(out, 1, MPI_INT64_T, 0, TAG_ANSWER, comm, &r), "MPI_Irecv"));
    TRY(check(MPI_Send(&q, 1, MPI_BYTE, 0, TAG_ASK, comm), "MPI_Send"));
    for (;;) {
        TRY(check(MPI_Test(&r, &done, MPI_STATUS_IGNORE), "MPI_Test"));
        if (done)
            return 0;
        nanosleep(&(struct timespec){0, POLL_NS / 4}, NULL);
    }
}

static int counter_next(Comm *c, CommCounter *k, int64_t *out)
{
    if (k->fallback) {
        int64_t turn = atomic_fetch_add(&k->next, 1), v = turn * c->size + c->rank;
        *out = v < k->limit ? v : -1;
        return 0;
    }
    if (c->rank == 0) {
        *out = comm_counter_take(k);
        return 0;
    }
    pthread_mutex_lock(&k->asking);
    int rc = ask(k, out);
    pthread_mutex_unlock(&k->asking);
    return rc;
}

static int counter_destroy(Comm *c, CommCounter *k)
{
    int rc = barrier(c); /* every rank has its last answer */
    atomic_store(&k->stop, 1);
    if (k->serving)
        pthread_join(k->thread, NULL);
    MPI_Comm *own = k->state;
    if (own) {
        int freed = check(MPI_Comm_free(own), "MPI_Comm_free");
        rc = rc < 0 ? rc : freed;
        free(own);
    }
    pthread_mutex_destroy(&k->asking);
    return rc;
}

static void abort_run(Comm *c, int exit_code)
{
    MPI_Abort(handle(c), exit_code);
    exit(exit_code); /* not reached */
}

static void deinit(Comm *c)
{
    State *s = c->state;
    MPI_Comm_free(&s->comm);
    free(s);
    MPI_Finalize();
}

static const CommTable table = {"mpi", barrier,        bcast,        reduce_i64,      reduce_f64, gather, send,
                                recv,  counter_create, counter_next, counter_destroy, abort_run,  deinit};

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
