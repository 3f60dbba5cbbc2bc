/* Ranks: one table for a lone process ("self") and for MPI. All buffers are on the host.
 * "Collective": every rank of the run must call it, in the same order. */
#ifndef COMM_COMM_H
#define COMM_COMM_H

#include <stddef.h>
#include <stdint.h>

typedef struct CommTable CommTable;
typedef struct {
    const CommTable *fn;
    void *state;
    int rank, size;
    int local_rank, local_size; /* among the ranks of this host */
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

/* One counter shared by all ranks, which hands out 0, 1, ... limit-1, each number once, to whoever asks first.
 * With MPI, a thread of rank 0 serves it, so it answers while rank 0 computes. Where MPI was started without
 * MPI_THREAD_MULTIPLE it falls back to rank, rank + size, ... */
typedef struct CommCounter CommCounter;
int comm_counter_create(CommCounter **out, Comm *c, int64_t limit); /* collective */
/* Not collective. *out = the next number, or -1 when all are given out. Several threads may call it. */
int comm_counter_next(CommCounter *k, int64_t *out);
/* Collective; every rank must have finished with it. NULL is fine (on all ranks). */
int comm_counter_destroy(CommCounter *k);

/* ---- for implementations ---- */
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
    int (*counter_create)(Comm *c, CommCounter *k);
    int (*counter_next)(Comm *c, CommCounter *k, int64_t *out);
    int (*counter_destroy)(Comm *c, CommCounter *k);
    void (*abort)(Comm *c, int exit_code);
    void (*deinit)(Comm *c);
};

#endif
