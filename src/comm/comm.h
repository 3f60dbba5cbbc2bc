/* Ranks: one table for a lone process ("self") and for MPI. All buffers are on the host.
 * "Collective": every rank of the run must call it, in the same order. */
#ifndef COMM_COMM_H
#define COMM_COMM_H

#include <stddef.h>
#include <stdint.h>

typedef struct CommTable CommTable;
typedef struct CommGuard CommGuard;
typedef struct {
    const CommTable *fn;
    void *state;
    int rank, size;
    int local_rank, local_size; /* among the ranks of this host */
    CommGuard *guard;           /* guard.h; NULL: nobody watches over the ranks */
} Comm;

/* A lone process. Cannot fail; comm_deinit is optional. */
void comm_init_self(Comm *c);
/* Whether a launcher (mpirun, srun) started this process. */
int comm_is_launched(void);
/* MPI when comm_is_launched, else self: MPI is not touched then. Once per process, by the main thread. */
int comm_init(Comm *c, int *argc, char ***argv);
/* Collective. Call it on every way out but comm_abort. Fine twice. */
void comm_deinit(Comm *c);
/* Ends all ranks at once. Only src/cli may call it, when ranks cannot agree any more. */
void comm_abort(Comm *c, int exit_code);

/* Name and version of the MPI library ("Open MPI v4.1.4") into out[size]; also where MPI was not started. */
void comm_library(char *out, int64_t size);
/* Address of the MPI_Comm of these ranks, for libraries that use it themselves; NULL for a lone process. Borrowed. */
const void *comm_mpi(const Comm *c);

int comm_barrier(Comm *c);                                       /* collective */
int comm_bcast(Comm *c, void *data, int64_t bytes, int root);    /* collective */
/* In place, collective, any n. Integer sums are exact: the same bits for any number of ranks and any order. */
int comm_sum_i64(Comm *c, int64_t *x, int64_t n);
int comm_max_i64(Comm *c, int64_t *x, int64_t n);
int comm_min_f64(Comm *c, double *x, int64_t n);
int comm_max_f64(Comm *c, double *x, int64_t n);
/* Added in rank order: the same bits in every run with the same number of ranks. For reports, not for gradients. */
int comm_sum_f64(Comm *c, double *x, int64_t n);
/* The blocks of all ranks, `bytes` each (equal everywhere), in rank order at root; `all` is used there only. Collective. */
int comm_gather(Comm *c, const void *mine, int64_t bytes, void *all, int root);
int comm_allgather(Comm *c, const void *mine, int64_t bytes, void *all);
/* Blocks of different sizes. At root *all (the caller's, free) holds them in rank order and sizes[r] is the size of each
 * (storage for c->size; used at root only); elsewhere *all = NULL. Collective. */
int comm_gather_any(Comm *c, const void *mine, int64_t bytes, void **all, int64_t *sizes, int root);

/* Call before a collective that follows work that can fail on one rank. `rc` is this rank's status.
 * Returns 0 if no rank failed. A rank that failed gets its own rc and message back; the others get ERR_PEER with the
 * message "rank 2: ..." of the first rank that failed. Collective. */
int comm_agree(Comm *c, int rc);
/* Bitwise or of all ranks' flags (each >= 0), or a negative error. For signals. Collective. */
int comm_any(Comm *c, int flags);

/* Questions of any rank, answered by a thread of rank 0, also while rank 0 computes. */
enum { COMM_WORDS = 8 };
typedef struct CommService CommService;
/* One call at a time. Must not ask itself. */
typedef void (*CommReply)(void *ctx, int from, const int64_t ask[COMM_WORDS], int64_t answer[COMM_WORDS]);
/* Collective. `reply` is called at rank 0; where MPI was started without MPI_THREAD_MULTIPLE every rank answers itself
 * (comm_service_is_local). patience: seconds after which a rank 0 that does not answer counts as gone. */
int comm_service_create(CommService **out, Comm *c, CommReply reply, void *ctx, double patience);
int comm_service_is_local(const CommService *s);
/* Not collective; several threads may call it. ERR_PEER when rank 0 is gone. */
int comm_service_ask(CommService *s, const int64_t ask[COMM_WORDS], int64_t answer[COMM_WORDS]);
/* Collective; every rank must have its last answer. NULL is fine (on all ranks). */
int comm_service_destroy(CommService *s);
/* In place of comm_service_destroy after a rank has died: ends the thread and forgets the rest. Not collective. */
void comm_service_abandon(CommService *s);
/* After a rank has died: c becomes a lone process with its old rank number, whose collectives involve nobody and whose comm_deinit leaves
 * MPI as it is. Not collective. */
void comm_give_up(Comm *c);

/* ---- for implementations ---- */
typedef struct CommLink CommLink;
typedef enum { COMM_SUM, COMM_MIN, COMM_MAX } CommOp;
struct CommTable {
    const char *name; /* "self", "mpi" */
    int (*barrier)(Comm *c);
    int (*bcast)(Comm *c, void *data, int64_t bytes, int root);
    int (*reduce_i64)(Comm *c, int64_t *x, int64_t n, CommOp op);
    int (*reduce_f64)(Comm *c, double *x, int64_t n, CommOp op); /* COMM_MIN, COMM_MAX */
    int (*gather)(Comm *c, const void *mine, int64_t bytes, void *all, int root);
    int (*send)(Comm *c, const void *data, int64_t bytes, int to);
    int (*recv)(Comm *c, void *data, int64_t bytes, int from);
    int (*service_create)(Comm *c, CommService *s);
    int (*service_ask)(CommService *s, const int64_t *ask, int64_t *answer);
    int (*service_destroy)(CommService *s, int abandon);
    int (*link_open)(Comm *c, CommLink **out);
    const void *(*mpi)(const Comm *c); /* NULL: none */
    void (*abort)(Comm *c, int exit_code);
    void (*deinit)(Comm *c);
};

#endif
