/* CommLink over MPI, on a communicator of its own. */
#ifndef COMM_MPI_LINK_H
#define COMM_MPI_LINK_H

#include <mpi.h>
#include <stdatomic.h>

#include "comm/comm_impl.h"

/* Collective. *silent (borrowed): no calls of MPI from now on. */
int mpi_link_open(CommLink **out, MPI_Comm parent, int size, const atomic_int *silent);

#endif
