#include "train/device.h"

int train_device_reduce(Backend *be, Comm *c, int64_t *x, int64_t n, int64_t *stage)
{
    int rc = 0;
    for (int64_t at = 0; c->size > 1 && at < n; at += TRAIN_STAGE) {
        int64_t here = n - at < TRAIN_STAGE ? n - at : TRAIN_STAGE;
        size_t bytes = (size_t)here * sizeof *x;
        int copied = be->download(be, stage, x + at, bytes);
        TRY(comm_sum_i64(c, stage, here)); /* also with a failed copy: the other ranks are there */
        if (copied >= 0)
            copied = be->upload(be, x + at, stage, bytes);
        rc = rc < 0 ? rc : copied;
    }
    return rc;
}
