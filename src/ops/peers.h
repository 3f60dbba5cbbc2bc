/* Sums over the devices of a job: what a backend offers (Backend.peers), over NCCL. A backend is in one group at most. Nothing here waits:
 * what has begun is asked for again and again, so that the caller can give up a device that does not come. */
#ifndef OPS_PEERS_H
#define OPS_PEERS_H

#include "ops/backend.h"

enum { PEERS_DEVICE = 16, PEERS_ID = 128, PEERS_SLOTS = 32 /* sums under way at once */ };
typedef enum { PEERS_NOT_YET, PEERS_HERE, PEERS_DONE } PeersState;

struct BackendPeers {
    /* The UUID of the device. */
    int (*device)(Backend *be, unsigned char id[PEERS_DEVICE]);
    /* ERR_UNSUPPORTED, saying what is missing. *version as major * 10000 + minor * 100 + patch. */
    int (*available)(Backend *be, int *version);
    /* What one rank makes and all of them join with. */
    int (*make_id)(Backend *be, unsigned char id[PEERS_ID]);
    int (*join)(Backend *be, const unsigned char id[PEERS_ID], int rank, int size);
    /* 1: the group is there and takes a sum, 0: not yet. ERR_BACKEND: it failed. */
    int (*ready)(Backend *be);
    /* Begins x[n] := the sum of all, in the backend's memory, after what is enqueued there now and after the sums begun before. Only when
     * ready, with less than PEERS_SLOTS not known to be done. Sums count from 0. */
    int (*sum)(Backend *be, int64_t *x, int64_t n);
    /* Of sum k: DONE; HERE: this device has come to it; NOT_YET: it has other work before. ERR_BACKEND: the group failed. */
    int (*state)(Backend *be, int64_t k);
    /* Ends the membership; abort: whatever is under way, too. Fine without one. */
    void (*leave)(Backend *be, int abort);
};

#endif
