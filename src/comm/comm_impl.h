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
/* Messages of the watchdog beside the collectives, from its own thread; nothing here waits. link_open is collective and gives NULL where MPI
 * takes calls of one thread only. */
struct CommLink {
    void *state;
    /* 1 sent, 0 left out: the one before to this rank is still on its way. */
    int (*send)(CommLink *l, int to, const int64_t words[COMM_WORDS]);
    int (*recv)(CommLink *l, int *from, int64_t words[COMM_WORDS]); /* 1 received, 0 none */
    void (*close)(CommLink *l, int abandon); /* collective, but where abandoned */
};
static inline int link_send(CommLink *l, int to, const int64_t words[COMM_WORDS])
{
    return l->send(l, to, words);
}
static inline int link_recv(CommLink *l, int *from, int64_t words[COMM_WORDS])
{
    return l->recv(l, from, words);
}
static inline void link_close(CommLink *l, int abandon)
{
    if (l)
        l->close(l, abandon);
}
/* The MPI half of comm_init. */
int comm_init_mpi(Comm *c, int *argc, char ***argv);

#endif
