#include "comm/mpi_link.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

typedef struct {
    CommLink link;
    MPI_Comm comm;
    int size;
    const atomic_int *silent;
    MPI_Request *request;        /* [size]: the last message to each rank */
    int64_t (*words)[COMM_WORDS]; /* [size]: and its text */
} Link;

static int link_post(CommLink *l, int to, const int64_t words[COMM_WORDS])
{
    Link *k = l->state;
    int done = 1;
    if (*k->silent)
        return 0;
    if (k->request[to] != MPI_REQUEST_NULL && (MPI_Test(&k->request[to], &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || !done))
        return 0;
    memcpy(k->words[to], words, sizeof k->words[to]);
    return MPI_Isend(k->words[to], COMM_WORDS, MPI_INT64_T, to, 0, k->comm, &k->request[to]) == MPI_SUCCESS;
}

static int link_take(CommLink *l, int *from, int64_t words[COMM_WORDS])
{
    Link *k = l->state;
    int there = 0;
    MPI_Status st;
    if (*k->silent || MPI_Iprobe(MPI_ANY_SOURCE, 0, k->comm, &there, &st) != MPI_SUCCESS || !there)
        return 0;
    *from = st.MPI_SOURCE;
    return MPI_Recv(words, COMM_WORDS, MPI_INT64_T, st.MPI_SOURCE, 0, k->comm, MPI_STATUS_IGNORE) == MPI_SUCCESS;
}

/* Messages still under way to a rank that has died never end: their text stays for them. */
static void link_end(CommLink *l, int abandon)
{
    Link *k = l->state;
    int done = 0;
    if (!abandon && k->comm != MPI_COMM_NULL) {
        MPI_Testall(k->size, k->request, &done, MPI_STATUSES_IGNORE);
        MPI_Comm_free(&k->comm);
    }
    if (!done && k->comm != MPI_COMM_NULL)
        return;
    free(k->request);
    free(k->words);
    free(k);
}

int mpi_link_open(CommLink **out, MPI_Comm parent, int size, const atomic_int *silent)
{
    Link *k = calloc(1, sizeof *k);
    if (!k)
        return err_set(ERR_NOMEM, "out of memory");
    k->link = (CommLink){k, link_post, link_take, link_end};
    k->comm = MPI_COMM_NULL;
    k->size = size;
    k->silent = silent;
    k->request = malloc((size_t)size * sizeof *k->request);
    k->words = calloc((size_t)size, sizeof *k->words);
    for (int r = 0; k->request && r < size; r++)
        k->request[r] = MPI_REQUEST_NULL;
    if (!k->request || !k->words || MPI_Comm_dup(parent, &k->comm) != MPI_SUCCESS) {
        link_end(&k->link, 1);
        return err_set(ERR_BACKEND, "MPI_Comm_dup failed");
    }
    MPI_Comm_set_errhandler(k->comm, MPI_ERRORS_RETURN);
    *out = &k->link;
    return 0;
}
