#include <stdlib.h>

#include "base/log.h"
#include "comm/device.h"
#include "train/device.h"

enum { STAGE = 1 << 20 };

struct TrainReduce {
    Backend *be;
    Comm *c;
    int64_t *x, n;
    CommDevice *peers; /* over NCCL, each part as soon as it is there; NULL: through the host, where they wait for the end, when all ranks
                          are known to have come */
    int64_t *stage;    /* [STAGE] on the host */
    int64_t before, early, overlapped; /* sums that the devices had: before this step; before its last part was there; of these in all */
};

int train_reduce_create(TrainReduce **out, Backend *be, Comm *c, int64_t *x, int64_t n)
{
    TrainReduce *r = calloc(1, sizeof *r);
    int64_t *stage = malloc(STAGE * sizeof *stage);
    *out = r;
    if (!r || !stage) {
        free(stage);
        return err_set(ERR_NOMEM, "training state: out of memory");
    }
    *r = (TrainReduce){.be = be, .c = c, .x = x, .n = n, .stage = stage};
    return 0;
}

int train_reduce_join(TrainReduce *r, int how)
{
    char who[512];
    TRY(comm_device_open(&r->peers, r->c, r->be, how, who, sizeof who));
    if (r->c->rank == 0 && r->c->size > 1)
        log_info("gradients of the ranks are added by %s", who);
    return 0;
}

void train_reduce_destroy(TrainReduce *r)
{
    if (!r)
        return;
    if (r->peers && r->c->rank == 0)
        log_line(LOG_JOB, "%lld of %lld sums set out before the last gradients of their step were there", (long long)r->overlapped,
                 (long long)comm_device_issued(r->peers));
    comm_device_close(r->peers);
    free(r->stage);
    free(r);
}

int train_reduce_begin(TrainReduce *r, int64_t first, int64_t count)
{
    if (!r->peers)
        return 0;
    r->early = comm_device_issued(r->peers);
    return comm_device_begin(r->peers, r->x + first, count);
}

static int through_host(TrainReduce *r)
{
    int rc = 0;
    for (int64_t at = 0; r->c->size > 1 && at < r->n; at += STAGE) {
        int64_t here = r->n - at < STAGE ? r->n - at : STAGE;
        size_t bytes = (size_t)here * sizeof *r->x;
        int copied = r->be->download(r->be, r->stage, r->x + at, bytes);
        comm_place_part(r->c, (int)(at / STAGE) + 1);
        TRY(comm_sum_i64(r->c, r->stage, here)); /* also with a failed copy: the other ranks are there */
        if (copied >= 0)
            copied = r->be->upload(r->be, r->x + at, r->stage, bytes);
        rc = rc < 0 ? rc : copied;
    }
    return rc;
}

int train_reduce_end(TrainReduce *r)
{
    if (!r->peers)
        return through_host(r);
    r->overlapped += r->early - r->before;
    TRY(comm_device_end(r->peers));
    r->before = comm_device_issued(r->peers);
    return 0;
}

int train_reduce_is_early(const TrainReduce *r)
{
    return r->peers != NULL;
}
