/* Shared by the implementations of Comm. */
#ifndef COMM_COMM_IMPL_H
#define COMM_COMM_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "comm/comm.h"

struct CommCounter {
    Comm *comm;
    int64_t limit;
    _Atomic int64_t next;  /* of the serving rank */
    atomic_int stop;       /* ends the serving thread */
    int serving;           /* a thread runs */
    int fallback;          /* static interleaving */
    pthread_t thread;
    pthread_mutex_t asking; /* one question at a time per rank */
    void *state;
};

/* The next number of this rank's own counter, or -1 past the limit. Thread-safe. */
int64_t comm_counter_take(CommCounter *k);
/* The MPI half of comm_init. */
int comm_init_mpi(Comm *c, int *argc, char ***argv);

#endif
