#include "sweep/sched.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { SHARE = 3, UNITS = 16 }; /* a range is at most 1 / (SHARE * ranks) of what is left, and UNITS units */

typedef struct {
    int64_t begin, end;
} Range;

typedef struct {
    Range own;      /* not given out yet */
    Range *held;    /* given out and not all stored, oldest first */
    int nheld, room;
    int64_t passed; /* items of ranges that left `held` */
    int64_t stored;
    int lost;
} Worker;

struct SweepSched {
    int64_t n;
    int ranks, unit, alone; /* alone: -1, or the rank */
    double *sum;            /* [n + 1] cost of all items before */
    uint8_t *change;        /* [n] or NULL */
    double left;            /* cost not given out */
    Worker *worker;
    Range *loose;           /* came back from lost ranks */
    int nloose, room;
};

static double cost(const SweepSched *s, Range r)
{
    return s->sum[r.end] - s->sum[r.begin];
}

/* First place in r at which at least c is before it. */
static int64_t place(const SweepSched *s, Range r, double c)
{
    int64_t lo = r.begin, hi = r.end;
    double at = s->sum[r.begin] + c;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (s->sum[mid] < at)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int sweep_sched_create(SweepSched **out, int64_t n, int ranks, const double *costs, const uint8_t *change, int unit)
{
    SweepSched *s = calloc(1, sizeof *s);
    *out = NULL;
    if (!s)
        return err_set(ERR_NOMEM, "out of memory");
    s->n = n;
    s->ranks = ranks;
    s->unit = unit > 0 ? unit : 1;
    s->alone = -1;
    s->sum = calloc((size_t)n + 1, sizeof *s->sum);
    s->worker = calloc((size_t)ranks, sizeof *s->worker);
    s->change = change ? malloc((size_t)n + 1) : NULL;
    if (!s->sum || !s->worker || (change && !s->change)) {
        sweep_sched_destroy(s);
        return err_set(ERR_NOMEM, "out of memory");
    }
    if (change)
        memcpy(s->change, change, (size_t)n);
    for (int64_t i = 0; i < n; i++)
        s->sum[i + 1] = s->sum[i] + (costs ? costs[i] : 1);
    s->left = s->sum[n];
    const Range all = {0, n};
    int64_t begin = 0;
    for (int r = 0; r < ranks; r++) {
        int64_t end = r + 1 == ranks ? n : place(s, all, s->sum[n] * (r + 1) / ranks);
        s->worker[r].own = (Range){begin, end > begin ? end : begin};
        begin = s->worker[r].own.end;
    }
    *out = s;
    return 0;
}

void sweep_sched_destroy(SweepSched *s)
{
    if (!s)
        return;
    for (int r = 0; s->worker && r < s->ranks; r++)
        free(s->worker[r].held);
    free(s->worker);
    free(s->sum);
    free(s->change);
    free(s->loose);
    free(s);
}

void sweep_sched_alone(SweepSched *s, int rank)
{
    s->alone = rank;
}

static int push(Range **list, int *n, int *room, Range r)
{
    if (*n == *room) {
        int more = 2 * *room + 8;
        Range *p = realloc(*list, (size_t)more * sizeof *p);
        if (!p)
            return 0;
        *list = p;
        *room = more;
    }
    (*list)[(*n)++] = r;
    return 1;
}

/* Where to cut a stretch in two: at half its cost, or at a costly change in the middle half. */
static int64_t cut(const SweepSched *s, Range r)
{
    int64_t mid = place(s, r, cost(s, r) / 2), reach = (r.end - r.begin) / 4;
    if (mid >= r.end)
        mid = r.end - 1;
    for (int64_t d = 0; s->change && d <= reach; d++) {
        if (mid + d < r.end && mid + d > r.begin && s->change[mid + d])
            return mid + d;
        if (mid - d > r.begin && s->change[mid - d])
            return mid - d;
    }
    return mid;
}

/* A new stretch for the rank: what came back, else half of the largest. */
static void find_stretch(SweepSched *s, Worker *w)
{
    if (s->nloose) {
        w->own = s->loose[--s->nloose];
        return;
    }
    int most = -1;
    for (int r = 0; r < s->ranks; r++) {
        const Range *o = &s->worker[r].own;
        if (o->begin < o->end && (most < 0 || cost(s, *o) > cost(s, s->worker[most].own)))
            most = r;
    }
    if (most < 0)
        return;
    Range *from = &s->worker[most].own;
    int64_t at = cut(s, *from);
    w->own = (Range){at, from->end};
    from->end = at;
}

SweepSchedAnswer sweep_sched_next(SweepSched *s, int rank, int64_t *begin, int64_t *end)
{
    Worker *w = &s->worker[rank];
    *begin = *end = 0;
    if (w->lost)
        return SCHED_END;
    if (w->own.begin >= w->own.end && s->alone < 0)
        find_stretch(s, w);
    if (w->own.begin >= w->own.end) {
        if (s->alone >= 0)
            return w->nheld ? SCHED_WAIT : SCHED_END;
        for (int r = 0; r < s->ranks; r++)
            if (s->worker[r].nheld)
                return SCHED_WAIT;
        return SCHED_END;
    }
    int64_t at = place(s, w->own, s->left / (SHARE * s->ranks)), n = at - w->own.begin, most = (int64_t)UNITS * s->unit;
    n = n > most ? most : n < 1 ? 1 : n;
    if (n > s->unit)
        n -= n % s->unit;
    if (n > w->own.end - w->own.begin)
        n = w->own.end - w->own.begin;
    const Range r = {w->own.begin, w->own.begin + n};
    if (!push(&w->held, &w->nheld, &w->room, r))
        return SCHED_WAIT; /* out of memory: it asks again */
    w->own.begin = r.end;
    s->left -= cost(s, r);
    *begin = r.begin;
    *end = r.end;
    return SCHED_WORK;
}

void sweep_sched_stored(SweepSched *s, int rank, int64_t count)
{
    Worker *w = &s->worker[rank];
    int k = 0;
    if (w->lost || count < w->stored)
        return;
    w->stored = count;
    while (k < w->nheld && w->passed + w->held[k].end - w->held[k].begin <= count)
        w->passed += w->held[k].end - w->held[k].begin, k++;
    if (k && k < w->nheld)
        memmove(w->held, w->held + k, (size_t)(w->nheld - k) * sizeof *w->held);
    w->nheld -= k;
}

void sweep_sched_lost(SweepSched *s, int rank)
{
    Worker *w = &s->worker[rank];
    if (w->lost)
        return;
    w->lost = 1;
    for (int k = 0; k < w->nheld; k++) {
        Range r = w->held[k];
        if (k == 0)
            r.begin += w->stored - w->passed;
        if (r.begin < r.end && push(&s->loose, &s->nloose, &s->room, r))
            s->left += cost(s, r);
    }
    w->nheld = 0;
}

int64_t sweep_sched_total_stored(const SweepSched *s)
{
    int64_t n = 0;
    for (int r = 0; r < s->ranks; r++)
        n += s->worker[r].stored;
    return n;
}
