/* Sums over the ranks of an MPI job of arrays on their (emulated) devices, in the manner of nccl-tests: known integers, exact results.
 *   mpirun -np N sums           all checks; lines as tests/run.sh reads them, from rank 0
 *   mpirun -np N sums lose S    sums one after another with a patience of S seconds until one fails (EMU_NCCL_FAULT); rank that saves says why: code 3 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "comm/device.h"
#include "cuda/cuda.h"
#include "ops/train.h"

static Comm comm;
static Backend *be;
static CommDevice *group;

enum { SUM = 1, FRAME = 4 }; /* words beside an array that must stay as they are */
static const CommPlace places[] = {{"the start", 1}, {"the sum", 1}};

/* Up to 2^60 / 16 in size, so that no sum of ranks passes the range. */
static int64_t value(int rank, int64_t i, int round)
{
    uint64_t x = (uint64_t)i * 0x9e3779b97f4a7c15u + (uint64_t)rank * 0xd1b54a32d192ed03u + (uint64_t)round;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93u;
    return (int64_t)(x ^ x >> 29) >> 7;
}

static int64_t expected(int64_t i, int round)
{
    int64_t sum = 0;
    for (int r = 0; r < comm.size; r++)
        sum += value(r, i, round);
    return sum;
}

/* n values in parts of `part`, all begun before any is waited for; in round 1 the device of rank 0 has yet to clear its first half. Whether every word
 * is right, on every rank. */
static int sums(int64_t n, int64_t part, int round)
{
    int64_t total = n + 2 * FRAME, wrong = 0, *x = malloc((size_t)total * sizeof *x);
    void *device = NULL;
    int rc = be->alloc(be, &device, (size_t)total * sizeof *x);
    for (int64_t i = 0; i < total; i++)
        x[i] = value(comm.rank, i, round);
    rc = rc < 0 ? rc : be->upload(be, device, x, (size_t)total * sizeof *x);
    int64_t cleared = round == 1 ? n / 2 : 0;
    if (rc >= 0 && comm.rank == 0)
        rc = be->train->clear(be, (int64_t *)device + FRAME, (size_t)cleared * sizeof *x);
    for (int64_t at = 0; rc >= 0 && at < n; at += part)
        rc = comm_device_begin(group, (int64_t *)device + FRAME + at, n - at < part ? n - at : part);
    rc = rc < 0 ? rc : comm_device_end(group);
    rc = rc < 0 ? rc : be->download(be, x, device, (size_t)total * sizeof *x);
    for (int64_t i = 0; rc >= 0 && i < total; i++) {
        int64_t want = i < FRAME || i >= n + FRAME ? value(comm.rank, i, round) : expected(i, round);
        wrong += x[i] != (i >= FRAME && i < FRAME + cleared ? want - value(0, i, round) : want);
    }
    free(x);
    be->free(be, device, 0);
    if (rc < 0)
        fprintf(stderr, "[rank %d] %s\n", comm.rank, err_message());
    wrong += rc < 0;
    return comm_sum_i64(&comm, &wrong, 1) < 0 ? 0 : !wrong;
}

static int check(const char *name, int yes)
{
    if (comm.rank == 0)
        printf("%s sums: %s, %d ranks\n", yes ? "ok" : "not ok", name, comm.size);
    return !yes;
}

static int run_checks(void)
{
    static const struct {
        const char *name;
        int64_t n, part;
    } c[] = {{"one value", 1, 1},          {"three", 3, 3},
             {"odd", 65537, 65537},        {"large", (1 << 20) + 3, 1 << 21},
             {"in parts", 10001, 997},     {"more parts than can be under way", 1000, 7},
             {"parts of one", 40, 1}};
    int bad = 0;
    for (int round = 0; round < 2; round++)
        for (size_t k = 0; k < sizeof c / sizeof *c; k++)
            bad += check(c[k].name, sums(c[k].n, c[k].part, round));
    return bad;
}

static void stuck(void *ctx, const char *why)
{
    (void)ctx;
    fprintf(stderr, "stuck: %s\n", why);
    _Exit(4);
}

static int lose(void)
{
    for (int step = 1; step < 20; step++) {
        comm_place(&comm, SUM, step, 0);
        if (!sums(100, 34, step)) /* three parts */
            return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    char why[512];
    int losing = argc > 2 && !strcmp(argv[1], "lose"), rc = comm_init(&comm, &argc, &argv);
    log_set_rank(comm.rank);
    if (rc >= 0)
        rc = comm_guard_create(&comm, &(CommGuardConf){losing ? atof(argv[2]) : 60, places, 2, stuck, NULL});
    if (rc >= 0)
        rc = comm_agree(&comm, cuda_backend_create(&be, comm.local_rank));
    if (rc >= 0)
        rc = comm_device_check(&comm, be);
    if (rc >= 0)
        rc = comm_device_open(&group, &comm, be, comm.size > 1 ? COMM_DEVICE_NCCL : COMM_DEVICE_AUTO, why, sizeof why);
    if (rc < 0 || comm.size == 1)
        fprintf(stderr, "[rank %d] %s\n", comm.rank, rc < 0 ? err_message() : why);
    int bad = rc < 0;
    if (rc >= 0 && comm.size > 1)
        bad = losing ? lose() : run_checks();
    else if (rc >= 0)
        bad = check("a lone rank has no group", group == NULL);
    if (comm_lost(&comm)) {
        int saver = comm_lost_is_saver(&comm);
        comm_guard_check(&comm);
        if (saver)
            fprintf(stderr, "lost: %s\n", err_message());
        comm_lost_wait(&comm, saver);
        if (saver)
            comm_abort(&comm, 3);
        _Exit(3);
    }
    comm_device_close(group);
    backend_destroy(be);
    comm_deinit(&comm);
    return bad != 0;
}
