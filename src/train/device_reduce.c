#include <stdlib.h>

#include "train/device.h"

enum { STAGE = 1 << 20 };

/* Through the host: parts that are ready wait for the end, where all ranks are known to have come. */
struct TrainReduce {
    Backend *be;
    Comm *c;
    int64_t *x, n;
    int64_t *stage; /* [STAGE] on the host */
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
    *r = (TrainReduce){be, c, x, n, stage};
    return 0;
}

void train_reduce_destroy(TrainReduce *r)
{
    if (r)
        free(r->stage);
    free(r);
}

int train_reduce_begin(TrainReduce *r, int64_t first, int64_t count)
{
    (void)r;
    (void)first;
    (void)count;
    return 0;
}

int train_reduce_end(TrainReduce *r)
{
    int rc = 0;
    for (int64_t at = 0; r->c->size > 1 && at < r->n; at += STAGE) {
        int64_t here = r->n - at < STAGE ? r->n - at : STAGE;
        size_t bytes = (size_t)here * sizeof *r->x;
        int copied = r->be->download(r->be, r->stage, r->x + at, bytes);
        TRY(comm_sum_i64(r->c, r->stage, here)); /* also with a failed copy: the other ranks are there */
        if (copied >= 0)
            copied = r->be->upload(r->be, r->x + at, r->stage, bytes);
        rc = rc < 0 ? rc : copied;
    }
    return rc;
}
