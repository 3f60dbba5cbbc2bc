#include "comm/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "ops/peers.h"

typedef struct {
    int64_t *x, n;
} Sum;

struct CommDevice {
    Comm *c;
    Backend *be;
    const BackendPeers *fn;
    Sum *sum;               /* since the last end: count, of which issued are given to the device and done are known to be there */
    int64_t count, cap, issued, done;
    int64_t first;          /* number of sum[0] since the group was joined */
    int inside;             /* the watchdog knows that this rank waits */
};

/* ---- one device per rank ---- */

typedef struct {
    unsigned char device[PEERS_DEVICE];
    char host[64];
    int has;
} Card;

static int is_same(const Card *a, const Card *b)
{
    static const unsigned char unknown[PEERS_DEVICE];
    return a->has && b->has && memcmp(a->device, unknown, PEERS_DEVICE) && !memcmp(a->device, b->device, PEERS_DEVICE);
}

static int refuse(const Card *k, int a, int b)
{
    const unsigned char *u = k[b].device;
    return err_set(ERR_RANGE,
                   "ranks %d and %d (host %s) have the same GPU, GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x: give each rank "
                   "its own (srun --gpus-per-task=1, cloud/bind.sh), show them all of the node's (CUDA_VISIBLE_DEVICES), or start fewer ranks",
                   a, b, k[b].host, u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

int comm_device_check(Comm *c, Backend *be)
{
    Card mine = {.has = be->peers != NULL}, *all;
    if (c->size == 1)
        return 0;
    gethostname(mine.host, sizeof mine.host - 1);
    int rc = mine.has ? be->peers->device(be, mine.device) : 0;
    all = malloc((size_t)c->size * sizeof *all);
    if (!all)
        rc = err_set(ERR_NOMEM, "out of memory");
    rc = comm_agree(c, rc);
    if (rc >= 0)
        rc = comm_allgather(c, &mine, sizeof mine, all);
    for (int b = 1; rc >= 0 && b < c->size; b++)
        for (int a = 0; rc >= 0 && a < b; a++)
            if (is_same(&all[a], &all[b]))
                rc = refuse(all, a, b);
    free(all);
    return rc;
}

/* ---- the group ---- */

static int64_t at_most(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void rest(int *tries)
{
    if (++*tries > 100)
        nanosleep(&(struct timespec){0, 50000}, NULL);
}

/* Every rank learns at once that this one cannot go on, and why is in its log. */
static int broken(CommDevice *d, int rc)
{
    int lost = comm_lost(d->c);
    d->fn->leave(d->be, 1);
    if (!lost) {
        log_error("%s", err_message());
        comm_guard_fail(d->c);
    }
    return rc;
}

static int wait_for_group(CommDevice *d)
{
    int rc = 0, tries = 0;
    TRY(comm_guard_enter(d->c));
    while (rc == 0) {
        rc = d->fn->ready(d->be);
        if (rc == 0)
            rc = comm_guard_check(d->c);
        rest(&tries);
    }
    comm_guard_leave(d->c);
    return rc < 0 ? broken(d, rc) : 0;
}

static int join(CommDevice *d)
{
    unsigned char id[PEERS_ID] = {0};
    TRY(comm_agree(d->c, d->c->rank == 0 ? d->fn->make_id(d->be, id) : 0));
    TRY(comm_bcast(d->c, id, sizeof id, 0));
    TRY(comm_agree(d->c, d->fn->join(d->be, id, d->c->rank, d->c->size)));
    return wait_for_group(d);
}

/* Whether all ranks can: 1, or 0 with the first reason in why, the same on every rank. */
static int all_can(Comm *c, Backend *be, char *why, size_t size)
{
    int version = 0, rc = be->peers ? be->peers->available(be, &version) : err_set(ERR_UNSUPPORTED, "it has no GPU");
    rc = comm_agree(c, rc);
    if (rc == 0)
        snprintf(why, size, "the GPUs by NCCL %d.%d.%d", version / 10000, version / 100 % 100, version % 100);
    else
        snprintf(why, size, "MPI through the hosts' memory (%s)", err_message());
    return rc == 0;
}

int comm_device_open(CommDevice **out, Comm *c, Backend *be, int how, char *why, size_t size)
{
    *out = NULL;
    snprintf(why, size, "%s", c->size == 1 ? "no one, there is one rank" : "MPI through the hosts' memory");
    if (c->size == 1 || how == COMM_DEVICE_HOST)
        return 0;
    if (!all_can(c, be, why, size))
        return how == COMM_DEVICE_AUTO ? 0 : err_set(ERR_UNSUPPORTED, "NCCL is asked for, but not there: %s", why);
    CommDevice *d = calloc(1, sizeof *d);
    int rc = comm_agree(c, d ? 0 : err_set(ERR_NOMEM, "out of memory"));
    if (rc >= 0) {
        *d = (CommDevice){.c = c, .be = be, .fn = be->peers};
        rc = join(d);
    }
    if (rc < 0)
        free(d);
    else
        *out = d;
    return rc;
}

void comm_device_close(CommDevice *d)
{
    if (!d)
        return;
    d->fn->leave(d->be, comm_lost(d->c) || d->count > 0); /* sums that never came to an end: a step failed */
    free(d->sum);
    free(d);
}

/* ---- sums ---- */

/* Gives the device what it can take now. */
static int issue(CommDevice *d)
{
    while (d->issued < d->count && d->issued - d->done < PEERS_SLOTS) {
        int ready = d->fn->ready(d->be);
        if (ready <= 0)
            return ready;
        TRY(d->fn->sum(d->be, d->sum[d->issued].x, d->sum[d->issued].n));
        d->issued++;
    }
    return 0;
}

int comm_device_begin(CommDevice *d, int64_t *x, int64_t n)
{
    if (d->count == d->cap) {
        int64_t cap = d->cap ? 2 * d->cap : 64;
        Sum *s = realloc(d->sum, (size_t)cap * sizeof *s);
        if (!s)
            return err_set(ERR_NOMEM, "out of memory");
        d->sum = s;
        d->cap = cap;
    }
    d->sum[d->count++] = (Sum){x, n};
    int rc = issue(d);
    return rc < 0 ? broken(d, rc) : 0;
}

/* The oldest sum that is not known to be there. */
static int look(CommDevice *d)
{
    int state;
    TRY(issue(d));
    if (d->issued == d->done)
        return 0;
    TRY(state = d->fn->state(d->be, d->first + d->done));
    if (state != PEERS_NOT_YET && !d->inside) {
        comm_place_part(d->c, (int)at_most(d->done + 1, 65535));
        TRY(comm_guard_enter(d->c));
        d->inside = 1;
    }
    if (state == PEERS_DONE) {
        comm_guard_leave(d->c);
        d->inside = 0;
        d->done++;
    }
    return state == PEERS_DONE;
}

int comm_device_end(CommDevice *d)
{
    int rc = 0, tries = 0;
    while (rc >= 0 && d->done < d->count) {
        rc = look(d);
        if (rc == 0) {
            rc = comm_guard_check(d->c);
            rest(&tries);
        }
    }
    if (rc < 0)
        return broken(d, rc);
    d->first += d->count;
    d->count = d->issued = d->done = 0;
    return 0;
}

int64_t comm_device_issued(const CommDevice *d)
{
    return d->first + d->issued;
}
