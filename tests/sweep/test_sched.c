/* Distribution of items: everything once, in long stretches, also when ranks are lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "sweep/sched.h"

enum { N = 1000, RANKS = 7 };

static uint32_t dice(uint32_t *s)
{
    *s = *s * 1664525u + 1013904223u;
    return *s >> 8;
}

typedef struct {
    SweepSched *s;
    int count[N];         /* how often an item was stored */
    int64_t begin[RANKS], end[RANKS], given[RANKS];
    int64_t changes, jumps; /* steps to an item that needs other weights; that does not follow the one before */
    int64_t last[RANKS];
} Sim;

static int take(Sim *t, int r)
{
    int64_t b, e;
    SweepSchedAnswer a = sweep_sched_next(t->s, r, &b, &e);
    if (a != SCHED_WORK)
        return a == SCHED_END ? -1 : 0;
    assert_true(b >= 0 && b < e && e <= N);
    t->jumps += b != t->last[r];
    t->last[r] = e;
    t->begin[r] = b;
    t->end[r] = e;
    t->given[r] += e - b;
    return 1;
}

static void finish(Sim *t, int r)
{
    for (int64_t i = t->begin[r]; i < t->end[r]; i++)
        t->count[i]++;
    t->begin[r] = t->end[r];
    sweep_sched_stored(t->s, r, t->given[r]);
}

static void test_sched__every_item_once_in_long_stretches(void **state)
{
    (void)state;
    Sim t = {0};
    uint32_t seed = 1;
    assert_int_equal(sweep_sched_create(&t.s, N, RANKS, NULL, NULL, 4), 0);
    int alive = RANKS, ended[RANKS] = {0};
    while (alive) {
        int r = (int)(dice(&seed) % RANKS);
        finish(&t, r);
        if (!ended[r] && take(&t, r) < 0) {
            ended[r] = 1;
            alive--;
        }
    }
    for (int i = 0; i < N; i++)
        assert_int_equal(t.count[i], 1);
    assert_int_equal(sweep_sched_total_stored(t.s), N);
    assert_true(t.jumps < 12 * RANKS);
    sweep_sched_destroy(t.s);
}

/* Stretches are cut where the weights change: 7 ranks and 8 models cost few changes. */
static void test_sched__cuts_at_costly_changes(void **state)
{
    (void)state;
    Sim t = {0};
    uint8_t change[N] = {0};
    double cost[N];
    int64_t changes = 0, model[RANKS];
    for (int i = 0; i < N; i++) {
        change[i] = i && i % 125 == 0;
        cost[i] = 1 + i % 3;
    }
    memset(model, -1, sizeof model);
    assert_int_equal(sweep_sched_create(&t.s, N, RANKS, cost, change, 1), 0);
    for (int round = 0, alive = 1; alive; round++) {
        alive = 0;
        for (int r = 0; r < RANKS; r++) {
            for (int64_t i = t.begin[r]; i < t.end[r]; i++) {
                changes += model[r] != i / 125;
                model[r] = i / 125;
            }
            finish(&t, r);
            alive |= take(&t, r) > 0;
        }
    }
    for (int i = 0; i < N; i++)
        assert_int_equal(t.count[i], 1);
    assert_true(changes < 40);
    sweep_sched_destroy(t.s);
}

/* Ranks vanish with half of their ranges stored: the rest is given out again, nothing twice. */
static void test_sched__lost_ranks(void **state)
{
    (void)state;
    for (uint32_t round = 1; round <= 30; round++) {
        Sim t = {0};
        uint32_t seed = round;
        int gone[RANKS] = {0}, lost = 0, idle = 0;
        assert_int_equal(sweep_sched_create(&t.s, N, RANKS, NULL, NULL, 3), 0);
        while (idle < 10000) {
            int r = (int)(dice(&seed) % RANKS), got;
            if (gone[r])
                continue;
            if (lost < RANKS - 1 && dice(&seed) % 40 == 0) {
                int64_t held = t.end[r] - t.begin[r], part = held ? dice(&seed) % (uint32_t)(held + 1) : 0;
                for (int64_t i = 0; i < part; i++)
                    t.count[t.begin[r] + i]++;
                sweep_sched_stored(t.s, r, t.given[r] - held + part);
                sweep_sched_lost(t.s, r);
                gone[r] = 1;
                lost++;
                continue;
            }
            finish(&t, r);
            got = take(&t, r);
            idle = got > 0 ? 0 : idle + 1;
            if (got < 0)
                break;
        }
        for (int i = 0; i < N; i++)
            assert_int_equal(t.count[i], 1);
        sweep_sched_destroy(t.s);
    }
}

static void test_sched__alone_and_empty(void **state)
{
    (void)state;
    SweepSched *s;
    int64_t b, e, sum = 0;
    assert_int_equal(sweep_sched_create(&s, 10, 3, NULL, NULL, 1), 0);
    sweep_sched_alone(s, 1);
    while (sweep_sched_next(s, 1, &b, &e) == SCHED_WORK) {
        assert_true(b >= 3 && e <= 7);
        sum += e - b;
    }
    assert_true(sum == 3 || sum == 4);
    sweep_sched_destroy(s);
    assert_int_equal(sweep_sched_create(&s, 1, 3, NULL, NULL, 4), 0);
    int work = 0;
    for (int r = 0; r < 3; r++)
        work += sweep_sched_next(s, r, &b, &e) == SCHED_WORK;
    assert_int_equal(work, 1);
    sweep_sched_destroy(s);
    assert_int_equal(sweep_sched_create(&s, 0, 3, NULL, NULL, 4), 0);
    assert_int_equal(sweep_sched_next(s, 2, &b, &e), SCHED_END);
    sweep_sched_destroy(s);
    sweep_sched_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sched__every_item_once_in_long_stretches),
        cmocka_unit_test(test_sched__cuts_at_costly_changes),
        cmocka_unit_test(test_sched__lost_ranks),
        cmocka_unit_test(test_sched__alone_and_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
