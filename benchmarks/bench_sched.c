/* Distribution of a sweep's items over ranks: a discrete-event simulation around the very scheduler of `atelier sweep`, with given times
 * per item, question and answer. Prints the efficiency (work / (ranks * time)), the share of time that ranks wait for answers, and the
 * scheduler's own speed.
 *     bench_sched [RANKS ITEMS] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "sweep/sched.h"

/* Seconds: a message one way, its answer by the serving thread (which looks every 0.5 ms), and the item itself on average. */
enum { SEEDS = 6 };
static const double MESSAGE = 50e-6, ANSWER = 10e-6, LOOK = 0.5e-3, ITEM = 2.0;

typedef struct {
    double time;
    int rank;
} Event;

static void sift_down(Event *h, int n, int i)
{
    for (;;) {
        int c = 2 * i + 1;
        if (c >= n)
            return;
        if (c + 1 < n && h[c + 1].time < h[c].time)
            c++;
        if (h[i].time <= h[c].time)
            return;
        const Event e = h[i];
        h[i] = h[c];
        h[c] = e;
        i = c;
    }
}

typedef struct {
    double makespan, waiting, busy, cpu;
    int64_t asked, changes, most;
} Result;

typedef struct {
    int64_t begin, end, done;
    double asked;
} Rank;

static int simulate(Result *out, int ranks, int64_t n, const double *cost, const double *real, const uint8_t *change, int unit, const double *speed)
{
    SweepSched *s;
    Event *heap = calloc((size_t)ranks, sizeof *heap);
    Rank *rank = calloc((size_t)ranks, sizeof *rank);
    uint8_t *seen = calloc((size_t)n, 1);
    int alive = ranks;
    double server = 0;
    *out = (Result){0};
    if (!heap || !rank || !seen)
        return err_set(ERR_NOMEM, "out of memory");
    TRY(sweep_sched_create(&s, n, ranks, cost, change, unit));
    for (int r = 0; r < ranks; r++)
        heap[r] = (Event){0, r};
    while (alive) {
        int r = heap[0].rank;
        Rank *w = &rank[r];
        double now = heap[0].time, arrives = now + MESSAGE + LOOK / 2, begins = arrives > server ? arrives : server;
        double cpu = clock_now();
        w->done += w->end - w->begin;
        sweep_sched_stored(s, r, w->done);
        SweepSchedAnswer a = sweep_sched_next(s, r, &w->begin, &w->end);
        out->cpu += clock_now() - cpu;
        out->asked++;
        server = begins + ANSWER;
        double answered = server + MESSAGE;
        if (a == SCHED_WORK) {
            double work = 0;
            for (int64_t i = w->begin; i < w->end; i++) {
                work += real[i] / speed[r];
                seen[i]++;
                out->changes += change[i] && i != w->begin ? 1 : i == w->begin && w->done ? change[i] : 0;
            }
            out->waiting += answered - now;
            out->busy += work;
            heap[0].time = answered + work;
            out->makespan = heap[0].time > out->makespan ? heap[0].time : out->makespan;
        } else if (a == SCHED_WAIT) {
            heap[0].time = answered + 0.05;
        } else {
            heap[0] = heap[--alive];
        }
        sift_down(heap, alive, 0);
    }
    for (int64_t i = 0; i < n; i++)
        if (seen[i] != 1)
            return err_set(ERR_RANGE, "item %lld was given out %d times", (long long)i, seen[i]);
    sweep_sched_destroy(s);
    free(heap);
    free(rank);
    free(seen);
    return 0;
}

/* Time of an ideal distribution that does not know the items' times either: every rank takes the next item the moment it is free, and
 * nothing costs anything. What is missing from efficiency 1 there are the last items, not the scheduler. */
static int ideal(double *makespan, int ranks, int64_t n, const double *real, const double *speed)
{
    Event *heap = calloc((size_t)ranks, sizeof *heap);
    if (!heap)
        return err_set(ERR_NOMEM, "out of memory");
    for (int r = 0; r < ranks; r++)
        heap[r] = (Event){0, r};
    *makespan = 0;
    for (int64_t i = 0; i < n; i++) {
        heap[0].time += real[i] / speed[heap[0].rank];
        *makespan = heap[0].time > *makespan ? heap[0].time : *makespan;
        sift_down(heap, ranks, 0);
    }
    free(heap);
    return 0;
}

typedef struct {
    const char *name;
    double spread; /* of the logarithm of an item's time */
    int known;     /* whether the scheduler knows the times or only their mean */
    int uneven;    /* every 4th rank at half speed */
    int unit;
} Case;

typedef struct {
    double efficiency, ideal, least, waiting, questions, cpu;
} Sum;

static int run_seed(Sum *sum, const Case *c, int ranks, int64_t n, int seed)
{
    double *real = calloc((size_t)n, sizeof *real), *cost = calloc((size_t)n, sizeof *cost), *speed = calloc((size_t)ranks, sizeof *speed);
    double capacity = 0, work = 0, best = 0;
    uint8_t *change = calloc((size_t)n, 1);
    Result r;
    if (!real || !cost || !speed || !change)
        return err_set(ERR_NOMEM, "out of memory");
    srand48(seed);
    for (int64_t i = 0; i < n; i++) {
        double g = sqrt(-2 * log(drand48() + 1e-12)) * cos(6.283185307179586 * drand48());
        work += real[i] = ITEM * exp(c->spread * g - c->spread * c->spread / 2);
        cost[i] = c->known ? real[i] : 1;
        change[i] = i % (n / 8 + 1) == 0;
    }
    for (int k = 0; k < ranks; k++)
        capacity += speed[k] = c->uneven && k % 4 == 0 ? 0.5 : 1;
    TRY(simulate(&r, ranks, n, cost, real, change, c->unit, speed));
    TRY(ideal(&best, ranks, n, real, speed));
    double efficiency = work / (capacity * r.makespan);
    sum->efficiency += efficiency / SEEDS;
    sum->ideal += work / (capacity * best) / SEEDS;
    sum->least = efficiency < sum->least ? efficiency : sum->least;
    sum->waiting += r.waiting / (ranks * r.makespan) / SEEDS;
    sum->questions += (double)r.asked / SEEDS;
    sum->cpu += r.cpu / (double)r.asked / SEEDS;
    free(real);
    free(cost);
    free(speed);
    free(change);
    return 0;
}

static int run(const Case *c, int ranks, int64_t n)
{
    Sum s = {.least = 1};
    for (int seed = 1; seed <= SEEDS; seed++)
        TRY(run_seed(&s, c, ranks, n, seed));
    printf("%-42s efficiency %.4f (least %.4f; one by one for nothing %.4f)  waiting for answers %.4f %%  %.0f questions  %.2f us each\n", c->name,
           s.efficiency, s.least, s.ideal, 100 * s.waiting, s.questions, 1e6 * s.cpu);
    return 0;
}

static int all(int ranks, int64_t n)
{
    static const Case cases[] = {{"equal items", 0, 1, 0, 1},
                                 {"uneven items (sigma 0.5), times unknown", 0.5, 0, 0, 1},
                                 {"uneven items (sigma 0.5), times known", 0.5, 1, 0, 1},
                                 {"uneven, every 4th rank at half speed", 0.5, 0, 1, 1},
                                 {"uneven, batches of 4", 0.5, 0, 0, 4}};
    printf("%d ranks, %lld items of %.1f s on average, means of %d seeds\n", ranks, (long long)n, ITEM, SEEDS);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        TRY(run(&cases[i], ranks, n));
    return 0;
}

int main(int argc, char **argv)
{
    int rc = argc > 2 ? all(atoi(argv[1]), atoll(argv[2])) : 0;
    if (argc <= 2) {
        rc = all(1024, 100000);
        if (rc >= 0)
            rc = all(4, 1000);
    }
    if (rc < 0)
        fprintf(stderr, "%s\n", err_message());
    return rc < 0;
}
