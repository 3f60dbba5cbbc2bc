#include "comm/guard.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "comm/comm_impl.h"

/* Words of a report to rank 0, and of rank 0's to the others. */
enum { R_ENTERED, R_LEFT, R_PLACE, R_GONE, R_DONE, R_FAILED, R_MOVES };
enum { V_FAULT, V_RANK, V_COUNT, V_WAITED, V_AT, V_WAITING, V_SAVER, V_DONE };
typedef enum { FAULT_NONE, FAULT_GONE, FAULT_SILENT, FAULT_LATE, FAULT_STUCK, FAULT_ITSELF, FAULT_IDLE } Fault;
static const long TICK_NS = 50000000;
static const double BEAT = 1, GRACE = 10, LEAVE = 300, NO_LIMIT = 600, SILENCE = 60, IDLE = 3;

typedef struct {
    char host[64];
    int64_t pid, host_id;
} Who;

typedef struct {
    double heard, moved; /* when; moved: its main thread */
    int64_t entered, left, place, moves;
} Peer;

struct CommGuard {
    CommGuardConf conf;
    int rank, size;
    Who *who;          /* [size] */
    CommLink *link;    /* NULL: no messages */
    pthread_t thread;
    int running;
    pthread_mutex_t lock; /* of all below */
    int ending, paused;
    int64_t entered, left, place, moves;
    double now;        /* seconds that this process was awake */
    Peer *peer;        /* [size]; rank 0: all, others: [0].heard */
    int64_t failed;    /* 1 + a rank that cannot take part; 0: none */
    int64_t gone;      /* 1 + a rank whose process has ended; 0: none */
    int64_t front;     /* rank 0: most collectives entered by a rank, and since when */
    double since;
    int64_t verdict[COMM_WORDS];
    char text[512];
    int seen, done;    /* the main thread knows; whoever saves is ready */
    double lost_at, seen_at;
};

/* How long a live rank may be silent: its watchdog speaks every second, whatever the rank does. */
static double silence(const CommGuard *g)
{
    return fmin(g->conf.patience, SILENCE);
}

/* ---- texts ---- */

static int64_t pack(int place, int64_t step, int part)
{
    return (int64_t)(place & 0xff) << 56 | (int64_t)(part & 0xffff) << 40 | (step & 0xffffffffff);
}

static const CommPlace *place_of(const CommGuard *g, int64_t packed)
{
    static const CommPlace unknown = {"a collective operation", 0};
    int k = (int)(packed >> 56 & 0xff);
    return k < g->conf.nplaces ? &g->conf.places[k] : &unknown;
}

static const char *place_text(const CommGuard *g, int64_t packed, char *buf, size_t size)
{
    int64_t step = packed & 0xffffffffff, part = packed >> 40 & 0xffff;
    int n = snprintf(buf, size, "%s", place_of(g, packed)->name);
    if (step)
        n += snprintf(buf + n, size - (size_t)n, " of step %lld", (long long)step);
    if (part)
        snprintf(buf + n, size - (size_t)n, ", bucket %lld", (long long)part);
    return buf;
}

static void describe(CommGuard *g)
{
    char place[120], at[120], who[160], others[64] = "", waiting[64] = "";
    const int64_t *v = g->verdict;
    double wait = g->conf.patience * place_of(g, v[V_WAITED])->times;
    place_text(g, v[V_WAITED], place, sizeof place);
    place_text(g, v[V_AT], at, sizeof at);
    snprintf(who, sizeof who, "rank %lld (host %s)", (long long)v[V_RANK], g->who[v[V_RANK]].host);
    if (v[V_COUNT] > 1)
        snprintf(others, sizeof others, " and %lld other%s", (long long)v[V_COUNT] - 1, v[V_COUNT] > 2 ? "s" : "");
    if (v[V_WAITING])
        snprintf(waiting, sizeof waiting, "; %lld rank%s there", (long long)v[V_WAITING], v[V_WAITING] > 1 ? "s wait" : " waits");
    switch ((Fault)v[V_FAULT]) {
    case FAULT_GONE:
        snprintf(g->text, sizeof g->text, "%s is gone: its process %lld has ended; the others were at %s", who,
                 (long long)g->who[v[V_RANK]].pid, place);
        break;
    case FAULT_SILENT:
        snprintf(g->text, sizeof g->text, "%s was not heard of for %.0f s and did not come to %s%s: its process is stopped, or its node or the "
                 "network is down", who, silence(g), place, waiting);
        break;
    case FAULT_LATE:
        snprintf(g->text, sizeof g->text, "%s%s did not arrive at %s within %.0f s%s. It is alive, and was last at %s", who, others, place,
                 wait, waiting, at);
        break;
    case FAULT_ITSELF:
        snprintf(g->text, sizeof g->text, "%s could not go on at %s; its own message says why", who, at);
        break;
    case FAULT_IDLE:
        snprintf(g->text, sizeof g->text, "no rank has moved for %.0f s; the longest at rest is %s, last seen on its way to %s", IDLE * wait,
                 who, at);
        break;
    default:
        snprintf(g->text, sizeof g->text, "all ranks arrived at %s, but it did not end within %.0f s: the network or a GPU hangs", place, wait);
        break;
    }
}

/* ---- judging; the lock is held ---- */

static void judge(CommGuard *g, Fault fault, int rank, int count, int64_t waited, int64_t at, int waiting)
{
    if (g->verdict[V_FAULT] || g->paused || g->ending)
        return;
    const int64_t v[COMM_WORDS] = {fault, rank, count, waited, at, waiting, -1, 0};
    memcpy(g->verdict, v, sizeof v);
    g->lost_at = g->now;
    describe(g);
}

static void judge_as_told(CommGuard *g, const int64_t v[COMM_WORDS])
{
    judge(g, (Fault)v[V_FAULT], (int)v[V_RANK], (int)v[V_COUNT], v[V_WAITED], v[V_AT], (int)v[V_WAITING]);
    g->verdict[V_SAVER] = v[V_SAVER];
}

static int is_waiting(const CommGuard *g, int r)
{
    return g->peer[r].entered == g->front && g->peer[r].left < g->front;
}

/* The first rank that is there, and how many wait. */
static int64_t look_at_front(CommGuard *g, int *waiting)
{
    int64_t front = 0, place = 0;
    for (int r = 0; r < g->size; r++)
        if (g->peer[r].entered > front)
            front = g->peer[r].entered;
    if (front != g->front)
        g->since = g->now;
    g->front = front;
    *waiting = 0;
    for (int r = g->size - 1; r >= 0; r--) {
        *waiting += is_waiting(g, r);
        if (g->peer[r].entered == front)
            place = g->peer[r].place;
    }
    return place;
}

static void judge_late(CommGuard *g, int64_t place, int waiting)
{
    int late = 0, first = 0;
    for (int r = g->size - 1; r >= 0; r--)
        if (g->peer[r].entered < g->front)
            first = r, late++;
    if (late)
        judge(g, FAULT_LATE, first, late, place, g->peer[first].place, waiting);
    else if (waiting == g->size)
        judge(g, FAULT_STUCK, 0, g->size, place, place, waiting);
}

/* None waits: each has IDLE times as long for what it is about as others would wait, since it may just have much to do. */
static void judge_idle(CommGuard *g)
{
    int first = 0;
    for (int r = 0; r < g->size; r++) {
        int times = place_of(g, g->peer[r].place)->times;
        if (!times || g->now - g->peer[r].moved <= IDLE * g->conf.patience * times)
            return;
        if (g->peer[r].moved < g->peer[first].moved)
            first = r;
    }
    judge(g, FAULT_IDLE, first, g->size, g->peer[first].place, g->peer[first].place, 0);
}

/* Rank 0 if it is not itself waited for, else the first that waits. */
static void choose_saver(CommGuard *g)
{
    int r = 0;
    while (g->verdict[V_FAULT] == FAULT_LATE && r < g->size - 1 && !is_waiting(g, r))
        r++;
    g->verdict[V_SAVER] = r;
}

static void judge_all(CommGuard *g)
{
    int waiting;
    int64_t place = look_at_front(g, &waiting);
    double limit = g->conf.patience;
    if (g->gone)
        judge(g, FAULT_GONE, (int)g->gone - 1, 1, place, g->peer[g->gone - 1].place, waiting);
    if (g->failed)
        judge(g, FAULT_ITSELF, (int)g->failed - 1, 1, place, g->peer[g->failed - 1].place, waiting);
    for (int r = 1; r < g->size; r++)
        if (limit > 0 && g->now - g->peer[r].heard > silence(g))
            judge(g, FAULT_SILENT, r, 1, place, g->peer[r].place, waiting);
    int times = place_of(g, place)->times;
    if (waiting && times && limit > 0 && g->now - g->since > limit * times)
        judge_late(g, place, waiting);
    if (!waiting && limit > 0)
        judge_idle(g);
    if (g->verdict[V_FAULT] && g->verdict[V_SAVER] < 0)
        choose_saver(g);
}

/* Of a rank that hears nothing from rank 0, or has no messages at all. */
static void judge_alone(CommGuard *g)
{
    if (g->gone == 1 || (g->gone && !g->link))
        judge(g, FAULT_GONE, (int)g->gone - 1, 1, g->place, 0, 0);
    if (g->link && g->conf.patience > 0 && g->now - g->peer[0].heard > silence(g) + BEAT)
        judge(g, FAULT_SILENT, 0, 1, g->place, 0, 0);
}

static void look_for_ended(CommGuard *g)
{
    for (int r = 0; r < g->size && !g->gone; r++)
        if (r != g->rank && g->who[r].host_id == g->who[g->rank].host_id && kill((pid_t)g->who[r].pid, 0) < 0 && errno == ESRCH)
            g->gone = r + 1;
}

/* ---- messages; the lock is held ---- */

static void note(CommGuard *g, int rank, int64_t entered, int64_t left, int64_t place, int64_t moves)
{
    Peer *p = &g->peer[rank];
    *p = (Peer){g->now, p->moves == moves ? p->moved : g->now, entered, left, place, moves};
}

static void take_messages(CommGuard *g)
{
    int64_t w[COMM_WORDS];
    for (int from; link_recv(g->link, &from, w) > 0;) {
        Peer *p = &g->peer[from];
        p->heard = g->now;
        if (g->rank == 0) {
            note(g, from, w[R_ENTERED], w[R_LEFT], w[R_PLACE], w[R_MOVES]);
            if (!g->gone)
                g->gone = w[R_GONE];
            g->done |= w[R_DONE] != 0;
            if (!g->failed)
                g->failed = w[R_FAILED];
        } else if (from == 0) {
            g->done |= w[V_DONE] != 0;
            if (w[V_FAULT] && !g->verdict[V_FAULT])
                judge_as_told(g, w);
        }
    }
}

static void send_messages(CommGuard *g)
{
    const int64_t report[COMM_WORDS] = {g->entered, g->left, g->place, g->gone, g->done, g->failed, g->moves};
    if (g->rank) {
        link_send(g->link, 0, report);
        return;
    }
    g->verdict[V_DONE] = g->done;
    for (int r = 1; r < g->size; r++)
        link_send(g->link, r, g->verdict);
}

/* ---- the thread ---- */

/* Whether the main thread had time enough to get out of what it is in. */
static int is_stuck(const CommGuard *g)
{
    double limit = g->conf.patience > 0 ? fmax(g->conf.patience, GRACE) : NO_LIMIT;
    if (!g->verdict[V_FAULT])
        return 0;
    if (g->seen)
        return g->now - g->seen_at > LEAVE;
    return g->now - g->lost_at > limit;
}

static void tick(CommGuard *g, double *last, double *sent)
{
    double t = clock_now(), period = g->conf.patience > 0 ? fmin(BEAT, g->conf.patience / 8) : BEAT;
    int64_t before = g->verdict[V_FAULT] + g->done;
    g->now += fmin(t - *last, BEAT);
    *last = t;
    if (g->link)
        take_messages(g);
    int due = g->now - *sent >= period || (g->failed && !before);
    if (due)
        look_for_ended(g);
    note(g, g->rank, g->entered, g->left, g->place, g->moves);
    if (g->rank == 0 && g->link)
        judge_all(g);
    else
        judge_alone(g);
    if (g->link && (due || (g->rank == 0 && before != g->verdict[V_FAULT] + g->done))) {
        send_messages(g);
        *sent = g->now;
    }
}

static void *guard_main(void *arg)
{
    CommGuard *g = arg;
    double last = clock_now(), sent = -BEAT;
    pthread_mutex_lock(&g->lock);
    while (!g->ending) {
        tick(g, &last, &sent);
        int stuck = is_stuck(g);
        pthread_mutex_unlock(&g->lock);
        if (stuck && g->conf.stuck)
            g->conf.stuck(g->conf.ctx, g->text);
        nanosleep(&(struct timespec){0, TICK_NS}, NULL);
        pthread_mutex_lock(&g->lock);
    }
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

/* Ranks see each other's processes where host and process namespace are the same. */
static void introduce(Who *w)
{
    char names[64 + PATH_MAX] = "", *p;
    uint64_t h = 14695981039346656037u;
    memset(w, 0, sizeof *w);
    gethostname(w->host, sizeof w->host - 1);
    int n = snprintf(names, sizeof names, "%s ", w->host);
    if (readlink("/proc/self/ns/pid", names + n, sizeof names - (size_t)n - 1) < 0)
        names[n] = 0;
    for (p = names; *p; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211u;
    w->host_id = (int64_t)(h >> 1);
    w->pid = getpid();
}

static void guard_free(CommGuard *g)
{
    pthread_mutex_destroy(&g->lock);
    free(g->who);
    free(g->peer);
    free(g);
}

static int guard_start(CommGuard *g, Comm *c)
{
    TRY(c->fn->link_open(c, &g->link));
    g->running = pthread_create(&g->thread, NULL, guard_main, g) == 0;
    return g->running ? 0 : err_set(ERR_BACKEND, "cannot start the watchdog's thread");
}

int comm_guard_create(Comm *c, const CommGuardConf *conf)
{
    if (c->size == 1 || c->guard)
        return 0;
    CommGuard *g = calloc(1, sizeof *g);
    int rc = g ? 0 : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0) {
        g->conf = *conf;
        g->rank = c->rank;
        g->size = c->size;
        pthread_mutex_init(&g->lock, NULL);
        g->who = calloc((size_t)c->size, sizeof *g->who);
        g->peer = calloc((size_t)c->size, sizeof *g->peer);
        if (!g->who || !g->peer)
            rc = err_set(ERR_NOMEM, "out of memory");
    }
    Who me;
    introduce(&me);
    rc = comm_agree(c, rc);
    if (rc >= 0)
        rc = comm_allgather(c, &me, sizeof me, g->who);
    if (rc >= 0)
        rc = comm_agree(c, guard_start(g, c));
    c->guard = g;
    if (rc < 0)
        comm_guard_destroy(c, 1);
    return rc;
}

void comm_guard_destroy(Comm *c, int abandon)
{
    CommGuard *g = c->guard;
    if (!g)
        return;
    if (!abandon && comm_barrier(c) < 0) /* nobody leaves before all have come: a process that ended would be missed */
        abandon = 1;
    pthread_mutex_lock(&g->lock);
    g->ending = 1;
    pthread_mutex_unlock(&g->lock);
    if (g->running)
        pthread_join(g->thread, NULL);
    c->guard = NULL;
    link_close(g->link, abandon);
    guard_free(g);
}

/* ---- the main thread ---- */

void comm_guard_pause(Comm *c, int paused)
{
    CommGuard *g = c->guard;
    if (!g)
        return;
    pthread_mutex_lock(&g->lock);
    g->paused = paused;
    for (int r = 0; r < g->size; r++)
        g->peer[r].heard = g->peer[r].moved = g->now;
    pthread_mutex_unlock(&g->lock);
}

void comm_place(Comm *c, int place, int64_t step, int part)
{
    CommGuard *g = c->guard;
    if (!g)
        return;
    pthread_mutex_lock(&g->lock);
    g->place = pack(place, step, part);
    g->moves++;
    pthread_mutex_unlock(&g->lock);
}

void comm_place_part(Comm *c, int part)
{
    CommGuard *g = c->guard;
    if (!g)
        return;
    pthread_mutex_lock(&g->lock);
    g->place = (g->place & ~pack(0, 0, -1)) | pack(0, 0, part);
    g->moves++;
    pthread_mutex_unlock(&g->lock);
}

void comm_guard_fail(Comm *c)
{
    CommGuard *g = c->guard;
    if (!g)
        return;
    pthread_mutex_lock(&g->lock);
    g->failed = g->rank + 1;
    pthread_mutex_unlock(&g->lock);
}

int comm_guard_check(Comm *c)
{
    CommGuard *g = c->guard;
    if (!g)
        return 0;
    pthread_mutex_lock(&g->lock);
    int lost = g->verdict[V_FAULT] != 0;
    if (lost && !g->seen) {
        g->seen = 1;
        g->seen_at = g->now;
    }
    pthread_mutex_unlock(&g->lock);
    return lost ? err_set(ERR_PEER, "%s", g->text) : 0; /* the text is never written again */
}

int comm_guard_enter(Comm *c)
{
    CommGuard *g = c->guard;
    TRY(comm_guard_check(c));
    if (!g)
        return 0;
    pthread_mutex_lock(&g->lock);
    g->entered++;
    g->moves++;
    pthread_mutex_unlock(&g->lock);
    return 0;
}

void comm_guard_leave(Comm *c)
{
    CommGuard *g = c->guard;
    if (!g)
        return;
    pthread_mutex_lock(&g->lock);
    g->left = g->entered;
    g->moves++;
    pthread_mutex_unlock(&g->lock);
}

/* ---- after the job was lost ---- */

int comm_lost(const Comm *c)
{
    CommGuard *g = c->guard;
    if (!g)
        return 0;
    pthread_mutex_lock(&g->lock);
    int lost = g->verdict[V_FAULT] != 0;
    pthread_mutex_unlock(&g->lock);
    return lost;
}

int comm_lost_is_saver(const Comm *c)
{
    const CommGuard *g = c->guard;
    if (!comm_lost(c))
        return 0;
    if (g->verdict[V_SAVER] >= 0)
        return g->rank == g->verdict[V_SAVER];
    for (int r = 1; r < g->rank; r++)
        if (g->who[r].host_id == g->who[g->rank].host_id && kill((pid_t)g->who[r].pid, 0) == 0)
            return 0;
    return g->rank != 0;
}

/* Whether whoever saves has said so or cannot any more. */
static int others_are_done(CommGuard *g)
{
    pthread_mutex_lock(&g->lock);
    int done = g->done || (g->verdict[V_SAVER] >= 0 && g->rank && g->now - g->peer[0].heard > GRACE);
    pthread_mutex_unlock(&g->lock);
    return done;
}

void comm_lost_wait(Comm *c, int saved)
{
    CommGuard *g = c->guard;
    if (!comm_lost(c))
        return;
    if (saved) {
        pthread_mutex_lock(&g->lock);
        g->done = 1;
        pthread_mutex_unlock(&g->lock);
        nanosleep(&(struct timespec){0, 6 * TICK_NS}, NULL); /* it is sent */
        return;
    }
    for (int k = 0; k < 2400 && !others_are_done(g); k++)
        nanosleep(&(struct timespec){0, TICK_NS}, NULL);
}
