/* Sums over the ranks of arrays that lie in their devices' memory, by the backend's own means (NCCL); integers, so exact. They run beside
 * what else the devices do. The watchdog (guard.h) counts each sum as a collective when this rank's device has come to it. */
#ifndef COMM_DEVICE_H
#define COMM_DEVICE_H

#include "comm/guard.h"
#include "ops/backend.h"

/* ERR_RANGE where two ranks have the same device, with both, their host and what to set. Collective. */
int comm_device_check(Comm *c, Backend *be);

typedef enum { COMM_DEVICE_AUTO, COMM_DEVICE_NCCL, COMM_DEVICE_HOST } CommDeviceHow;
typedef struct CommDevice CommDevice;
/* *out: the group of all ranks' devices; NULL where sums are to go through the host: with how HOST, for a lone rank, or with AUTO where a rank
 * has no device or no library. why: for people, which it is. With how NCCL that is an error. Borrows both. Collective. */
int comm_device_open(CommDevice **out, Comm *c, Backend *be, int how, char *why, size_t size);
/* Collective unless the job was lost. NULL is fine. */
void comm_device_close(CommDevice *d);
/* x[n] := the sum over all ranks, after what is enqueued on the backend now. Every rank begins the same sums in the same order. Waits for
 * nobody and returns at once: what cannot begin yet begins in a later call. Not before comm_device_end is x read. */
int comm_device_begin(CommDevice *d, int64_t *x, int64_t n);
/* All sums begun are there. After an error the group is broken for good. Collective. */
int comm_device_end(CommDevice *d);
/* Sums that the devices were given, since open. */
int64_t comm_device_issued(const CommDevice *d);

#endif
