#include "comm/comm.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "comm/exact.h"

static void test_comm_self__collectives(void **state)
{
    (void)state;
    Comm c;
    comm_init_self(&c);
    int64_t i[2] = {5, -7}, j = 0, size = 0;
    double d = 2.5;
    void *all;
    assert_int_equal(c.size, 1);
    assert_int_equal(comm_barrier(&c), 0);
    assert_int_equal(comm_bcast(&c, i, sizeof i, 0), 0);
    assert_int_equal(comm_sum_i64(&c, i, 2), 0);
    assert_int_equal(i[1], -7);
    assert_int_equal(comm_sum_f64(&c, &d, 1), 0);
    assert_int_equal(comm_min_f64(&c, &d, 1), 0);
    assert_true(d == 2.5);
    assert_int_equal(comm_allgather(&c, i, 8, &j), 0);
    assert_int_equal(j, 5);
    assert_int_equal(comm_gather_any(&c, "abc", 3, &all, &size, 0), 0);
    assert_int_equal(size, 3);
    assert_memory_equal(all, "abc", 3);
    free(all);
    assert_int_equal(comm_agree(&c, err_set(ERR_RANGE, "mine")), ERR_RANGE);
    assert_string_equal(err_message(), "mine");
    assert_int_equal(comm_agree(&c, 3), 0);
    assert_int_equal(comm_any(&c, 6), 6);
    assert_true(comm_any(&c, -1) < 0);
    comm_deinit(&c);
    comm_deinit(&c);
}

enum { THREADS = 4, LIMIT = 20000 };
typedef struct {
    CommService *s;
    char *seen;
} Shared;

static void give_number(void *ctx, int from, const int64_t ask[COMM_WORDS], int64_t answer[COMM_WORDS])
{
    int64_t *next = ctx;
    (void)ask;
    answer[0] = from == 0 && *next < LIMIT ? (*next)++ : -1;
}

static void *take(void *arg)
{
    Shared *s = arg;
    int64_t ask[COMM_WORDS] = {0}, answer[COMM_WORDS];
    while (comm_service_ask(s->s, ask, answer) == 0 && answer[0] >= 0)
        s->seen[answer[0]]++;
    return NULL;
}

static void test_comm_self__service_is_thread_safe(void **state)
{
    (void)state;
    Comm c;
    Shared s = {NULL, calloc(LIMIT, 1)};
    pthread_t t[THREADS];
    int64_t next = 0;
    comm_init_self(&c);
    assert_int_equal(comm_service_create(&s.s, &c, give_number, &next, 1), 0);
    assert_true(comm_service_is_local(s.s));
    for (int i = 0; i < THREADS; i++)
        pthread_create(&t[i], NULL, take, &s);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    for (int i = 0; i < LIMIT; i++)
        assert_int_equal(s.seen[i], 1);
    assert_int_equal(comm_service_destroy(s.s), 0);
    assert_int_equal(comm_service_destroy(NULL), 0);
    free(s.seen);
}

static void test_comm_exact__rounds_once_to_even(void **state)
{
    (void)state;
    static const float g[] = {1.0f, -0.5f, 0x1p-40f, 0x1p-41f, 0x1.8p-40f, -0x1.8p-40f, 0x1p-60f, 0x1p20f, -0.0f};
    static const int64_t q[] = {(int64_t)1 << 40, -((int64_t)1 << 39), 1, 0, 2, -2, 0, (int64_t)1 << 60, 0};
    int64_t acc[9] = {0};
    float back[9];
    assert_int_equal(exact_add(acc, g, 9), 0);
    assert_memory_equal(acc, q, sizeof q);
    assert_int_equal(exact_add(acc, g, 9), 0);
    exact_to_float(back, acc, 9, 0.5);
    assert_true(back[0] == 1.0f && back[1] == -0.5f && back[2] == 0x1p-40f && back[7] == 0x1p20f && back[8] == 0.0f);
}

static void test_comm_exact__counts_bad_values(void **state)
{
    (void)state;
    const float g[] = {NAN, INFINITY, -INFINITY, 0x1.000002p20f, -0x1p21f, 1.0f};
    int64_t acc[6] = {1, 2, 3, 4, 5, 6};
    assert_int_equal(exact_add(acc, g, 6), 5);
    for (int i = 0; i < 5; i++)
        assert_int_equal(acc[i], i + 1);
    assert_true(acc[5] == 6 + ((int64_t)1 << 40));
    /* Sums stop at 2^62 and say so, in both directions. */
    const float big[] = {0x1p20f, -0x1p20f};
    int64_t sum[2] = {0, 0}, bad = 0;
    for (int i = 0; i < 10; i++)
        bad += exact_add(sum, big, 2);
    assert_int_equal(bad, 12);
    assert_true(sum[0] == (int64_t)1 << 62 && sum[1] == -((int64_t)1 << 62));
    Comm c;
    comm_init_self(&c);
    assert_int_equal(exact_reduce(&c, sum, 2, 0), 0);
    assert_int_equal(exact_reduce(&c, sum, 2, 1), ERR_NUMERIC);
}

static void test_comm_exact__order_does_not_matter(void **state)
{
    (void)state;
    enum { N = 100000, PARTS = 5 };
    float *g = malloc(N * sizeof *g);
    int64_t *up = calloc(N, sizeof *up), *down = calloc(N, sizeof *down);
    for (int k = 0; k < 2 * PARTS; k++) {
        int part = k < PARTS ? k : 2 * PARTS - 1 - k;
        for (int i = 0; i < N; i++)
            g[i] = sinf((float)(i * 7 + part * 13)) * powf(10.0f, (float)((i + part) % 9 - 6));
        assert_int_equal(exact_add(k < PARTS ? up : down, g, N), 0);
    }
    assert_memory_equal(up, down, N * sizeof *up);
    free(g);
    free(up);
    free(down);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comm_self__collectives),       cmocka_unit_test(test_comm_self__service_is_thread_safe),
        cmocka_unit_test(test_comm_exact__rounds_once_to_even), cmocka_unit_test(test_comm_exact__counts_bad_values),
        cmocka_unit_test(test_comm_exact__order_does_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
