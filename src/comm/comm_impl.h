/* Shared by the implementations of Comm. */
#ifndef COMM_COMM_IMPL_H
#define COMM_COMM_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "comm/comm.h"

struct CommService {
    Comm *comm;
    CommReply reply;
    void *ctx;
    double patience;
    atomic_int stop;         /* ends the serving thread */
    int serving;             /* a thread runs */
    int local;               /* this rank answers itself */
    pthread_t thread;
    pthread_mutex_t asking;  /* one question at a time per rank */
    pthread_mutex_t replying;
    void *state;
};

/* Calls reply, one caller at a time. */
void comm_service_reply(CommService *s, int from, const int64_t *ask, int64_t *answer);
/* The MPI half of comm_init. */
int comm_init_mpi(Comm *c, int *argc, char ***argv);

#endif
