/* Work for any number of ranks, with items that sleep: each is done once, and the ranks end together. mpirun -np N ... */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/error.h"
#include "sweep/dispatch.h"

enum { N = 300 };
static Comm comm;

static double item_seconds(int64_t i)
{
    return 0.004 + 0.012 * (double)((uint32_t)i * 2654435761u >> 24) / 255;
}

static void nap(double s)
{
    nanosleep(&(struct timespec){0, (long)(s * 1e9)}, NULL);
}

typedef struct {
    int64_t seen[N];
    double busy, ended; /* seconds of items; until this rank's last one was done */
    int64_t stored;
    int lost;
} Work;

/* fail_at: this rank gives up with an error at that item; -1 never. */
static int work(Work *w, int fail_at)
{
    double cost[N], begin;
    SweepDispatch *d;
    SweepRankStatus s = {RANK_STARTING, 0, 0, 0, 0};
    int64_t b, e;
    int got, rc = 0;
    memset(w, 0, sizeof *w);
    for (int64_t i = 0; i < N; i++)
        cost[i] = item_seconds(i);
    const SweepDispatchConf conf = {.n = N, .cost = cost, .unit = 1, .patience = 60, .total = N};
    TRY(sweep_dispatch_create(&d, &comm, &conf));
    comm_barrier(&comm);
    begin = clock_now();
    while (rc == 0 && (got = sweep_dispatch_next(d, &b, &e)) > 0) {
        for (; got == 1 && b < e; b++) {
            double start = clock_now();
            nap(item_seconds(b));
            w->busy += clock_now() - start;
            w->seen[b]++;
            s.stored++;
            w->ended = clock_now() - begin;
            if (b == fail_at)
                rc = -1;
        }
        s.state = got == 1 ? RANK_RENDERING : RANK_WAITING;
        sweep_dispatch_status(d, &s);
        if (got == 2)
            nap(0.002);
    }
    if (rc < 0)
        sweep_dispatch_stop(d);
    rc = sweep_dispatch_end(d, &w->stored, &w->lost);
    sweep_dispatch_destroy(d);
    return rc;
}

static void test_dispatch__each_item_once_and_ranks_stay_busy(void **state)
{
    (void)state;
    Work w;
    assert_int_equal(work(&w, -1), 0);
    assert_int_equal(w.stored, N);
    assert_int_equal(w.lost, 0);
    assert_int_equal(comm_sum_i64(&comm, w.seen, N), 0);
    for (int i = 0; i < N; i++)
        assert_int_equal(w.seen[i], 1);
    double longest = w.ended, busy = w.busy;
    assert_int_equal(comm_max_f64(&comm, &longest, 1), 0);
    assert_int_equal(comm_sum_f64(&comm, &busy, 1), 0);
    double efficiency = busy / (longest * comm.size);
    print_message("%d ranks: efficiency %.3f\n", comm.size, efficiency);
    assert_true(efficiency > (getenv("STRICT") ? 0.97 : 0.8)); /* loose: ranks share cores with other tests */
}

/* A rank that fails ends the work of all, soon. */
static void test_dispatch__a_failing_rank_stops_all(void **state)
{
    (void)state;
    Work w;
    assert_int_equal(work(&w, 3), 0);
    assert_true(w.stored >= 1 && w.stored < N);
    assert_int_equal(w.lost, 0);
}

int main(int argc, char **argv)
{
    if (comm_init(&comm, &argc, &argv) < 0) {
        fprintf(stderr, "%s\n", err_message());
        return 1;
    }
    if (comm.rank > 0 && (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dispatch__each_item_once_and_ranks_stay_busy),
        cmocka_unit_test(test_dispatch__a_failing_rank_stops_all),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_deinit(&comm);
    return failed;
}
