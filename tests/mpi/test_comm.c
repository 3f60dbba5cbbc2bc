/* For any number of ranks: mpirun -np N build/release/tests/mpi/test_comm. Only rank 0 prints the results. */
#include "comm/comm.h"

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
#include "base/rng.h"
#include "comm/exact.h"
#include "comm/guard.h"

static Comm comm;
static int failures;
static FILE *say;

/* Counts instead of jumping out, so that no rank leaves the others in a collective. */
#define CHECK(x)                                                                                      \
    do {                                                                                              \
        if (!(x)) {                                                                                   \
            failures++;                                                                               \
            fprintf(say, "[rank %d] line %d: %s (%s)\n", comm.rank, __LINE__, #x, err_message());     \
        }                                                                                             \
    } while (0)

static void agree_on_result(void)
{
    int64_t total = failures;
    failures = 0;
    assert_int_equal(comm_sum_i64(&comm, &total, 1), 0);
    assert_int_equal(total, 0);
}

static void test_comm_mpi__places(void **state)
{
    (void)state;
    const char *launched = getenv("OMPI_COMM_WORLD_SIZE");
    CHECK(!launched || atoi(launched) == comm.size);
    CHECK(comm.rank >= 0 && comm.rank < comm.size);
    CHECK(comm.local_rank >= 0 && comm.local_rank < comm.local_size && comm.local_size <= comm.size);
    CHECK(strcmp(comm.fn->name, launched ? "mpi" : "self") == 0);
    CHECK(comm_barrier(&comm) == 0);
    agree_on_result();
}

static void test_comm_mpi__bcast(void **state)
{
    (void)state;
    enum { N = (3 << 20) + 7 };
    unsigned char *x = malloc(N);
    for (int root = 0; root < comm.size; root++) {
        for (int i = 0; i < N; i++)
            x[i] = (unsigned char)(comm.rank == root ? i * 7 + root : 0);
        CHECK(comm_bcast(&comm, x, N, root) == 0);
        int wrong = 0;
        for (int i = 0; i < N; i++)
            wrong += x[i] != (unsigned char)(i * 7 + root);
        CHECK(wrong == 0);
    }
    free(x);
    CHECK(comm_bcast(&comm, NULL, 0, 0) == 0);
    agree_on_result();
}

static void test_comm_mpi__reductions(void **state)
{
    (void)state;
    enum { N = (2 << 20) + 5 };
    int64_t *x = malloc(N * sizeof *x), sum = 0;
    for (int r = 0; r < comm.size; r++)
        sum += r + 1;
    for (int64_t i = 0; i < N; i++)
        x[i] = (comm.rank + 1) * (i - 1000) * 1000003;
    CHECK(comm_sum_i64(&comm, x, N) == 0);
    int wrong = 0;
    for (int64_t i = 0; i < N; i++)
        wrong += x[i] != sum * (i - 1000) * 1000003;
    CHECK(wrong == 0);
    free(x);
    int64_t most = -comm.rank;
    double lo = 1.5 * comm.rank, hi = 1.5 * comm.rank, add[2] = {0.1 * comm.rank, 1e16 * (comm.rank % 2 ? -1 : 1)}, expect[2] = {0, 0};
    CHECK(comm_max_i64(&comm, &most, 1) == 0 && most == 0);
    CHECK(comm_min_f64(&comm, &lo, 1) == 0 && lo == 0.0);
    CHECK(comm_max_f64(&comm, &hi, 1) == 0 && hi == 1.5 * (comm.size - 1));
    CHECK(comm_sum_f64(&comm, add, 2) == 0);
    for (int r = 0; r < comm.size; r++) {
        expect[0] = r ? expect[0] + 0.1 * r : 0.1 * r;
        expect[1] = r ? expect[1] + 1e16 * (r % 2 ? -1 : 1) : 1e16;
    }
    CHECK(add[0] == expect[0] && add[1] == expect[1]);
    agree_on_result();
}

static void test_comm_mpi__gathers(void **state)
{
    (void)state;
    enum { BIG = (1 << 20) + 3 };
    int64_t *all = calloc((size_t)comm.size, sizeof *all), mine = 100 + comm.rank;
    CHECK(comm_allgather(&comm, &mine, sizeof mine, all) == 0);
    for (int r = 0; r < comm.size; r++)
        CHECK(all[r] == 100 + r);
    char *big = malloc(BIG), *bigs = malloc((size_t)BIG * (size_t)comm.size);
    int root = comm.size - 1;
    memset(big, 'a' + comm.rank, BIG);
    CHECK(comm_gather(&comm, big, BIG, bigs, root) == 0);
    for (int r = 0; comm.rank == root && r < comm.size; r++)
        CHECK(bigs[(size_t)r * BIG] == 'a' + r && bigs[(size_t)r * BIG + BIG - 1] == 'a' + r);
    /* Rank r sends r * 10 bytes: rank 0 nothing. */
    void *any;
    CHECK(comm_gather_any(&comm, big, comm.rank * 10, &any, all, root) == 0);
    CHECK((any != NULL) == (comm.rank == root));
    if (any) {
        const char *p = any;
        for (int r = 0; r < comm.size; r++) {
            CHECK(all[r] == r * 10);
            CHECK(!r || (p[0] == 'a' + r && p[r * 10 - 1] == 'a' + r));
            p += r * 10;
        }
    }
    free(any);
    free(big);
    free(bigs);
    free(all);
    agree_on_result();
}

static void test_comm_mpi__agree(void **state)
{
    (void)state;
    CHECK(comm_agree(&comm, 0) == 0);
    CHECK(comm_agree(&comm, 5) == 0);
    for (int bad = 0; bad < comm.size; bad++) {
        char expected[64];
        int rc = comm.rank == bad ? err_set(ERR_FORMAT, "file %d is broken", bad) : 0;
        rc = comm_agree(&comm, rc);
        snprintf(expected, sizeof expected, comm.rank == bad ? "file %d is broken" : "rank %d: file %d is broken", bad, bad);
        CHECK(rc == (comm.rank == bad ? ERR_FORMAT : ERR_PEER));
        CHECK(strcmp(err_message(), expected) == 0);
    }
    /* All fail: each keeps its own. */
    int rc = comm_agree(&comm, err_set(ERR_RANGE, "mine %d", comm.rank));
    CHECK(rc == ERR_RANGE && strstr(err_message(), "mine ") && atoi(err_message() + 5) == comm.rank);
    agree_on_result();
}

static void test_comm_mpi__any(void **state)
{
    (void)state;
    CHECK(comm_any(&comm, 0) == 0);
    int flags = comm_any(&comm, comm.rank == comm.size - 1 ? 4 : comm.rank == 0 ? 1 : 0);
    CHECK(flags == (comm.size == 1 ? 4 : 5));
    CHECK(comm_any(&comm, 1 << 30) == 1 << 30);
    agree_on_result();
}

/* Hands out 0, 1, ... words[0] - 1. */
static void give_number(void *ctx, int from, const int64_t ask[COMM_WORDS], int64_t answer[COMM_WORDS])
{
    int64_t *next = ctx;
    answer[0] = *next < ask[0] ? (*next)++ : -1;
    answer[1] = from;
    answer[7] = ask[7] + 1;
}

static int64_t next_number(CommService *s, int64_t limit)
{
    int64_t ask[COMM_WORDS] = {limit, 0, 0, 0, 0, 0, 0, 41}, answer[COMM_WORDS];
    CHECK(comm_service_ask(s, ask, answer) == 0);
    CHECK(answer[1] == comm.rank && answer[7] == 42);
    return answer[0];
}

static void test_comm_mpi__service_gives_each_number_once(void **state)
{
    (void)state;
    enum { N = 300 };
    CommService *s;
    int64_t seen[N] = {0}, i, next = 0;
    CHECK(comm_service_create(&s, &comm, give_number, &next, 60) == 0);
    while ((i = next_number(s, N)) >= 0) {
        CHECK(i < N);
        seen[i]++;
    }
    CHECK(next_number(s, N) == -1);
    CHECK(comm_service_destroy(s) == 0);
    CHECK(comm_sum_i64(&comm, seen, N) == 0);
    for (i = 0; i < N; i++)
        CHECK(seen[i] == 1);
    agree_on_result();
}

/* Rank 0 computes without entering MPI; the others must get their answers meanwhile. */
static void test_comm_mpi__service_answers_while_rank_0_is_busy(void **state)
{
    (void)state;
    enum { N = 50 };
    static const double BUSY = 0.6;
    CommService *s;
    int64_t i = 0, mine = 0, next = 0;
    int64_t early = 0; /* numbers that came while rank 0 was busy */
    CHECK(comm_service_create(&s, &comm, give_number, &next, 60) == 0);
    CHECK(comm_barrier(&comm) == 0);
    double begin = clock_now();
    if (comm.rank == 0 && comm.size > 1) {
        volatile double x = 0;
        while (clock_now() - begin < BUSY)
            x = x + 1;
    }
    while (i >= 0) {
        i = next_number(s, N);
        mine += i >= 0;
        early += i >= 0 && comm.rank > 0 && clock_now() - begin < 0.9 * BUSY;
    }
    CHECK(comm_service_destroy(s) == 0);
    CHECK(comm_sum_i64(&comm, &early, 1) == 0);
    CHECK(comm.size == 1 || early >= N / 5);
    CHECK(comm_sum_i64(&comm, &mine, 1) == 0 && mine == N);
    agree_on_result();
}

static void test_comm_mpi__exact_sums_do_not_depend_on_ranks(void **state)
{
    (void)state;
    enum { N = 5000, MICRO = 7 };
    float *g = malloc(N * sizeof *g), *one = malloc(N * sizeof *one), *all = malloc(N * sizeof *all);
    int64_t *alone = calloc(N, sizeof *alone), *shared = calloc(N, sizeof *shared), bad = 0;
    for (int m = 0; m < MICRO; m++) {
        rng_normal_fill(g, N, rng_key(1, RNG_TEST, (uint64_t)m, 0), 0);
        CHECK(exact_add(alone, g, N) == 0);
        if (m % comm.size == (comm.rank + 1) % comm.size) /* some rank or other */
            bad += exact_add(shared, g, N);
    }
    CHECK(exact_reduce(&comm, shared, N, bad) == 0);
    CHECK(memcmp(alone, shared, N * sizeof *alone) == 0);
    exact_to_float(one, alone, N, 1.0 / MICRO);
    exact_to_float(all, shared, N, 1.0 / MICRO);
    CHECK(memcmp(one, all, N * sizeof *one) == 0);
    free(g);
    free(one);
    free(all);
    free(alone);
    free(shared);
    agree_on_result();
}

static void test_comm_mpi__exact_reports_bad_values_everywhere(void **state)
{
    (void)state;
    float g[3] = {1, comm.rank == comm.size - 1 ? NAN : 1, 1};
    int64_t acc[3] = {0};
    int64_t bad = exact_add(acc, g, 3);
    CHECK(exact_reduce(&comm, acc, 3, bad) == ERR_NUMERIC);
    CHECK(strstr(err_message(), "1 gradient values") != NULL);
    int64_t large[2] = {0, comm.rank == 0 ? (int64_t)1 << 62 : 0};
    int rc = exact_reduce(&comm, large, 2, 0);
    CHECK(rc == (comm.size > 1 ? ERR_NUMERIC : 0));
    agree_on_result();
}

int main(int argc, char **argv)
{
    if (comm_init(&comm, &argc, &argv) < 0) {
        fprintf(stderr, "%s\n", err_message());
        return 1;
    }
    say = fdopen(dup(2), "w");
    setvbuf(say, NULL, _IOLBF, 0);
    if (comm.rank > 0 && (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comm_mpi__places),
        cmocka_unit_test(test_comm_mpi__bcast),
        cmocka_unit_test(test_comm_mpi__reductions),
        cmocka_unit_test(test_comm_mpi__gathers),
        cmocka_unit_test(test_comm_mpi__agree),
        cmocka_unit_test(test_comm_mpi__any),
        cmocka_unit_test(test_comm_mpi__service_gives_each_number_once),
        cmocka_unit_test(test_comm_mpi__service_answers_while_rank_0_is_busy),
        cmocka_unit_test(test_comm_mpi__exact_sums_do_not_depend_on_ranks),
        cmocka_unit_test(test_comm_mpi__exact_reports_bad_values_everywhere),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (comm_guard_create(&comm, &(CommGuardConf){.patience = 60}) < 0) /* and all again with a watchdog */
        return 1;
    failed += cmocka_run_group_tests(tests, NULL, NULL);
    comm_deinit(&comm);
    fclose(say);
    return failed;
}
