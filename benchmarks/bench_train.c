/* What a training step costs on so many ranks:  mpirun -np N bench_train CONFIG.yaml [key=value ...]
 * One line: the phases of a step in ms, means over the ranks, and the bytes that are added over them. With "--reduce" in place of a
 * configuration: the time of one exact sum over the ranks for several message sizes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "comm/exact.h"
#include "graph/device.h"
#include "train/loop.h"

static int train(Comm *comm, int argc, char **argv)
{
    TrainConf c = {0};
    Backend *be = NULL;
    TrainResult r = {0};
    int rc = train_conf_read(&c, argv[1], (const char *const *)(argv + 2), argc - 2);
    if (rc >= 0)
        rc = device_create(&be, c.device, comm->local_rank, c.threads ? c.threads : 1);
    rc = comm_agree(comm, rc);
    if (rc >= 0)
        rc = train_run(&c, comm, be, &r);
    double v[1 + TRAIN_PHASES] = {r.wall};
    memcpy(v + 1, r.seconds, sizeof r.seconds);
    if (rc >= 0)
        rc = comm_sum_f64(comm, v, 1 + TRAIN_PHASES);
    double per = 1e3 / comm->size / (double)(r.steps - r.first > 0 ? r.steps - r.first : 1);
    if (rc >= 0 && comm->rank == 0)
        printf("ranks %d steps %lld batch %d ms_step %.3f data %.3f compute %.3f comm %.3f update %.3f bytes %lld\n", comm->size,
               (long long)(r.steps - r.first), c.batch, v[0] * per, v[1] * per, v[2] * per, v[3] * per, v[4] * per, (long long)r.values * 8);
    backend_destroy(be);
    train_conf_deinit(&c);
    return rc;
}

static int reduce(Comm *comm)
{
    enum { LARGEST = 1 << 23 };
    int64_t *x = calloc(LARGEST, sizeof *x);
    int rc = x ? 0 : err_set(ERR_NOMEM, "out of memory");
    for (int64_t n = 1 << 8; rc >= 0 && n <= LARGEST; n *= 8) {
        double best = 1e9;
        for (int i = 0; rc >= 0 && i < 7; i++) {
            rc = comm_barrier(comm);
            double began = clock_now();
            if (rc >= 0)
                rc = exact_reduce(comm, x, n, 0);
            double took = clock_now() - began;
            best = took < best ? took : best;
        }
        if (rc >= 0)
            rc = comm_max_f64(comm, &best, 1);
        if (rc >= 0 && comm->rank == 0)
            printf("ranks %d bytes %lld ms %.4f\n", comm->size, (long long)n * 8, best * 1e3);
    }
    free(x);
    return rc;
}

int main(int argc, char **argv)
{
    Comm comm;
    int rc = comm_init(&comm, &argc, &argv);
    if (rc >= 0 && argc < 2)
        rc = err_set(ERR_USAGE, "a configuration, or --reduce, is expected");
    if (rc >= 0)
        rc = strcmp(argv[1], "--reduce") ? train(&comm, argc, argv) : reduce(&comm);
    if (rc < 0)
        fprintf(stderr, "bench_train: %s\n", err_message());
    comm_deinit(&comm);
    return rc < 0;
}
