#include "sweep/dispatch.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "sweep/monitor.h"

/* Words of a question: kind, process, host, then SweepRankStatus. Of an answer: answer, begin, end, ranks lost, images stored. */
enum { ASK_NEXT, ASK_STATUS, ASK_STOP, ASK_LEAVE };
enum { W_KIND, W_PID, W_HOST, W_STATE, W_ITEM, W_STEP, W_STEPS, W_STORED };
enum { A_ANSWER, A_BEGIN, A_END, A_LOST, A_STORED };
static const long POLL_NS = 20000000;

typedef struct {
    double heard;
    int64_t pid, host;
    int left; /* came to the end of its work */
    int told; /* knows that all did */
} Peer;

struct SweepDispatch {
    Comm *comm;
    CommService *service;
    SweepDispatchConf conf;
    int64_t host;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t wake;
    pthread_t beat;
    int beating, ending, watching;
    SweepRankStatus mine;
    int orphan;           /* rank 0 is gone */
    /* rank 0 (where ranks answer themselves: every rank) */
    SweepSched *sched;
    Peer *peer;
    SweepRankStatus *status;
    int stopped, decided, nlost;
    SweepMonitor monitor;
};

/* Ranks on one host see each other's processes. */
static int64_t host_id(void)
{
    char name[256] = "";
    uint64_t h = 14695981039346656037u;
    gethostname(name, sizeof name - 1);
    for (const char *p = name; *p; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211u;
    return (int64_t)(h >> 1);
}

/* ---- rank 0's side ---- */

static void give_up(SweepDispatch *d, int r, const char *why)
{
    if (d->status[r].state == RANK_LOST || d->peer[r].left)
        return;
    log_warn("rank %d %s: its work goes to the others", r, why);
    d->status[r].state = RANK_LOST;
    sweep_sched_lost(d->sched, r);
    d->nlost++;
}

static void look_for_lost(SweepDispatch *d)
{
    double now = clock_now();
    for (int r = 1; r < d->comm->size; r++) {
        const Peer *p = &d->peer[r];
        if (p->pid && p->host == d->host && kill((pid_t)p->pid, 0) < 0 && errno == ESRCH)
            give_up(d, r, "was killed");
        else if (now - p->heard > d->conf.patience)
            give_up(d, r, "does not answer");
    }
}

static void take_status(SweepDispatch *d, int from, const int64_t *ask)
{
    if (d->status[from].state == RANK_LOST)
        return;
    d->status[from] = (SweepRankStatus){.state = ask[W_STATE] >= 0 && ask[W_STATE] < RANK_LOST ? (SweepRankState)ask[W_STATE] : RANK_WAITING,
                                        .item = ask[W_ITEM],
                                        .step = (int32_t)ask[W_STEP],
                                        .steps = (int32_t)ask[W_STEPS],
                                        .stored = ask[W_STORED]};
    sweep_sched_stored(d->sched, from, ask[W_STORED]);
}

/* Every rank is at the end or lost. From then on none is given up: the others may be in a collective call. */
static int all_left(SweepDispatch *d, int alone)
{
    for (int r = 0; r < d->comm->size && !d->decided && !alone; r++)
        if (!d->peer[r].left && d->status[r].state != RANK_LOST)
            return 0;
    return d->decided = 1;
}

static void reply(void *ctx, int from, const int64_t ask[COMM_WORDS], int64_t answer[COMM_WORDS])
{
    SweepDispatch *d = ctx;
    Peer *p = &d->peer[from];
    memset(answer, 0, COMM_WORDS * sizeof *answer);
    pthread_mutex_lock(&d->lock);
    p->heard = clock_now();
    p->pid = ask[W_PID];
    p->host = ask[W_HOST];
    take_status(d, from, ask);
    if (d->watching && !d->decided)
        look_for_lost(d);
    d->stopped |= ask[W_KIND] == ASK_STOP;
    answer[A_ANSWER] = SCHED_END;
    if (ask[W_KIND] == ASK_NEXT && !d->stopped)
        answer[A_ANSWER] = sweep_sched_next(d->sched, from, &answer[A_BEGIN], &answer[A_END]);
    if (ask[W_KIND] == ASK_LEAVE) {
        p->left = 1;
        p->told = all_left(d, !d->watching && d->comm->size > 1);
        answer[A_ANSWER] = p->told ? SCHED_END : SCHED_WAIT;
    }
    answer[A_LOST] = d->nlost;
    answer[A_STORED] = sweep_sched_total_stored(d->sched);
    pthread_mutex_unlock(&d->lock);
}

/* ---- every rank's side ---- */

static int ask(SweepDispatch *d, int kind, int64_t answer[COMM_WORDS])
{
    pthread_mutex_lock(&d->lock);
    const SweepRankStatus s = d->mine;
    int orphan = d->orphan;
    pthread_mutex_unlock(&d->lock);
    const int64_t words[COMM_WORDS] = {kind, getpid(), d->host, (int64_t)s.state, s.item, s.step, s.steps, s.stored};
    int rc = orphan ? err_set(ERR_PEER, "rank 0 is gone") : comm_service_ask(d->service, words, answer);
    if (rc < 0 && !orphan) {
        pthread_mutex_lock(&d->lock);
        d->orphan = 1;
        pthread_mutex_unlock(&d->lock);
    }
    return rc;
}

static void show(SweepDispatch *d, int last)
{
    SweepRankStatus *copy = malloc((size_t)d->comm->size * sizeof *copy);
    if (!copy)
        return;
    pthread_mutex_lock(&d->lock);
    memcpy(copy, d->status, (size_t)d->comm->size * sizeof *copy);
    pthread_mutex_unlock(&d->lock);
    sweep_monitor_show(&d->monitor, copy, last);
    free(copy);
}

static void *beat_main(void *arg)
{
    SweepDispatch *d = arg;
    int64_t answer[COMM_WORDS];
    pthread_mutex_lock(&d->lock);
    while (!d->ending) {
        struct timespec until;
        pthread_mutex_unlock(&d->lock);
        int rc = ask(d, ASK_STATUS, answer);
        if (rc >= 0 && d->comm->rank == 0)
            show(d, 0);
        pthread_mutex_lock(&d->lock);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec++;
        if (!d->ending)
            pthread_cond_timedwait(&d->wake, &d->lock, &until);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

static int create_state(SweepDispatch *d)
{
    int n = d->comm->size;
    d->peer = calloc((size_t)n, sizeof *d->peer);
    d->status = calloc((size_t)n, sizeof *d->status);
    if (!d->peer || !d->status)
        return err_set(ERR_NOMEM, "out of memory");
    for (int r = 0; r < n; r++)
        d->peer[r].heard = clock_now();
    sweep_monitor_init(&d->monitor, &d->conf, n);
    return sweep_sched_create(&d->sched, d->conf.n, n, d->conf.cost, d->conf.change, d->conf.unit);
}

int sweep_dispatch_create(SweepDispatch **out, Comm *c, const SweepDispatchConf *conf)
{
    SweepDispatch *d = calloc(1, sizeof *d);
    *out = NULL;
    int rc = d ? 0 : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0) {
        d->comm = c;
        d->conf = *conf;
        d->host = host_id();
        pthread_mutex_init(&d->lock, NULL);
        pthread_cond_init(&d->wake, NULL);
        rc = create_state(d);
    }
    rc = comm_agree(c, rc);
    if (rc >= 0)
        rc = comm_service_create(&d->service, c, reply, d, conf->patience);
    if (rc < 0) {
        sweep_dispatch_destroy(d);
        return rc;
    }
    int local = comm_service_is_local(d->service);
    if (local && c->size > 1)
        sweep_sched_alone(d->sched, c->rank);
    pthread_mutex_lock(&d->lock);
    d->watching = !local;
    pthread_mutex_unlock(&d->lock);
    d->beating = pthread_create(&d->beat, NULL, beat_main, d) == 0;
    *out = d;
    return 0;
}

int sweep_dispatch_next(SweepDispatch *d, int64_t *begin, int64_t *end)
{
    int64_t answer[COMM_WORDS];
    TRY_CTX(ask(d, ASK_NEXT, answer), "no more work is given out");
    *begin = answer[A_BEGIN];
    *end = answer[A_END];
    return answer[A_ANSWER] == SCHED_WORK ? 1 : answer[A_ANSWER] == SCHED_WAIT ? 2 : 0;
}

void sweep_dispatch_status(SweepDispatch *d, const SweepRankStatus *s)
{
    pthread_mutex_lock(&d->lock);
    d->mine = *s;
    pthread_mutex_unlock(&d->lock);
}

void sweep_dispatch_stop(SweepDispatch *d)
{
    int64_t answer[COMM_WORDS];
    ask(d, ASK_STOP, answer);
}

static void end_beat(SweepDispatch *d)
{
    pthread_mutex_lock(&d->lock);
    d->ending = 1;
    pthread_cond_broadcast(&d->wake);
    pthread_mutex_unlock(&d->lock);
    if (d->beating)
        pthread_join(d->beat, NULL);
    d->beating = 0;
}

static int all_told(SweepDispatch *d)
{
    int yes = 1;
    pthread_mutex_lock(&d->lock);
    for (int r = 1; r < d->comm->size; r++)
        yes &= d->peer[r].told || d->status[r].state == RANK_LOST;
    pthread_mutex_unlock(&d->lock);
    return yes;
}

int sweep_dispatch_end(SweepDispatch *d, int64_t *stored, int *lost)
{
    int64_t answer[COMM_WORDS] = {SCHED_WAIT};
    int rc = 0;
    *stored = *lost = 0;
    for (;;) {
        rc = ask(d, ASK_LEAVE, answer);
        if (rc < 0 || answer[A_ANSWER] == SCHED_END)
            break;
        nanosleep(&(struct timespec){0, POLL_NS}, NULL);
    }
    end_beat(d);
    if (d->comm->rank == 0)
        show(d, 1);
    if (rc >= 0 && !answer[A_LOST]) {
        rc = comm_service_destroy(d->service);
        d->service = NULL;
        *stored = d->mine.stored;
        return rc < 0 ? rc : comm_sum_i64(d->comm, stored, 1);
    }
    *stored = answer[A_STORED];
    *lost = rc < 0 ? 1 : (int)answer[A_LOST];
    while (d->comm->rank == 0 && !all_told(d))
        nanosleep(&(struct timespec){0, POLL_NS}, NULL);
    nanosleep(&(struct timespec){0, POLL_NS}, NULL); /* the last answer is on its way */
    comm_service_abandon(d->service);
    d->service = NULL;
    comm_give_up(d->comm);
    return rc;
}

void sweep_dispatch_destroy(SweepDispatch *d)
{
    if (!d)
        return;
    end_beat(d);
    comm_service_abandon(d->service);
    sweep_sched_destroy(d->sched);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->wake);
    free(d->peer);
    free(d->status);
    free(d);
}
