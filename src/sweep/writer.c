#include "sweep/writer.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/signal.h"
#include "base/str.h"
#include "io/file.h"
#include "sweep/record.h"

enum { GROUP = 64, PER_FOLDER = 1000, FLAT = 10000 };
static const int64_t GROUP_BYTES = 32 << 20; /* rows that are saved at once */

typedef struct Node {
    SweepRow row;
    struct Node *next;
} Node;

struct SweepWriter {
    SweepStore store;
    SweepWriterConf conf;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t more, less; /* rows came; rows went, or an end */
    Node *first, *last;
    int64_t queued;            /* bytes waiting or being written */
    int64_t rows;              /* rows waiting or being written */
    int stopping, failed, paused;
    char message[1024];
    SweepWriterStats stats;
};

int sweep_png_path(const char *output, int64_t index, int64_t count, char **path)
{
    if (count <= FLAT)
        return str_format(path, "%s/png/%06lld.png", output, (long long)index);
    return str_format(path, "%s/png/%04lld/%06lld.png", output, (long long)(index / PER_FOLDER), (long long)index);
}

int sweep_png_remove_temps(const char *output, int64_t count)
{
    for (int64_t k = 0; k < count; k += count <= FLAT ? count : PER_FOLDER) {
        char *path, *dir = NULL;
        TRY(sweep_png_path(output, k, count, &path));
        int rc = io_path_dir(&dir, path);
        if (rc >= 0)
            rc = io_dir_remove_temps(dir);
        free(dir);
        free(path);
        if (rc < 0 && rc != ERR_NOTFOUND)
            return rc;
    }
    return 0;
}

static struct timespec after(double seconds)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += (time_t)seconds;
    t.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    if (t.tv_nsec >= 1000000000)
        t.tv_sec++, t.tv_nsec -= 1000000000;
    return t;
}

/* Tells of a full or read-only disk, now and then, and waits. 0: an end is wanted. */
static int pause_writer(SweepWriter *w, double *told)
{
    double now = clock_now();
    if (now - *told > 60)
        log_warn("%s: this rank waits until it can write (make room or the folder writable, or stop the sweep with SIGTERM: finished images are "
                 "safe)",
                 err_message());
    *told = now - *told > 60 ? now : *told;
    pthread_mutex_lock(&w->lock);
    w->paused = 1;
    pthread_cond_broadcast(&w->less);
    if (!w->stopping) {
        struct timespec until = after(w->conf.retry);
        pthread_cond_timedwait(&w->more, &w->lock, &until);
    }
    int go_on = !w->stopping && !signal_stop();
    w->stats.paused += clock_now() - now;
    pthread_mutex_unlock(&w->lock);
    return go_on;
}

static int write_png(SweepWriter *w, const SweepRow *row)
{
    char *path, *dir = NULL;
    TRY(sweep_png_path(w->conf.output, row->index, w->conf.count, &path));
    int rc = io_path_dir(&dir, path);
    if (rc >= 0)
        rc = io_dir_make(dir);
    if (rc >= 0)
        rc = sweep_record_png(path, &row->image, row->record);
    free(dir);
    free(path);
    return rc;
}

typedef enum { STEP_ADD, STEP_SAVE, STEP_PNG } Step;

static int try_step(SweepWriter *w, Step step, const SweepRow *row)
{
    return step == STEP_ADD ? sweep_store_add(&w->store, row, 1) : step == STEP_SAVE ? sweep_store_save(&w->store) : write_png(w, row);
}

/* Repeats a step while nothing can be written. */
static int do_step(SweepWriter *w, Step step, const SweepRow *row)
{
    double told = -1e9;
    int rc, waited = 0;
    while ((rc = try_step(w, step, row)) == ERR_SPACE) {
        waited = 1;
        if (!pause_writer(w, &told))
            return err_set(ERR_SPACE, "%s", err_message());
    }
    if (waited) {
        pthread_mutex_lock(&w->lock);
        w->paused = 0;
        pthread_mutex_unlock(&w->lock);
        if (rc >= 0)
            log_warn("writing works again: this rank goes on");
    }
    return rc;
}

static int write_group(SweepWriter *w, Node *group)
{
    double start = clock_now(), paused = w->stats.paused;
    int64_t n = 0, bytes = 0;
    int rc = 0;
    for (Node *p = group; p && rc >= 0; p = p->next, n++) {
        rc = do_step(w, STEP_ADD, &p->row);
        bytes += sweep_row_bytes(&p->row);
    }
    if (rc >= 0)
        rc = do_step(w, STEP_SAVE, NULL);
    TRY(rc);
    pthread_mutex_lock(&w->lock);
    w->stats.stored += n;
    w->stats.saves++;
    w->stats.bytes += bytes;
    pthread_mutex_unlock(&w->lock);
    for (Node *p = group; w->conf.png && p && rc >= 0; p = p->next)
        rc = do_step(w, STEP_PNG, &p->row);
    w->stats.busy += clock_now() - start - (w->stats.paused - paused);
    return rc;
}

static void drop(Node *p)
{
    while (p) {
        Node *next = p->next;
        sweep_row_deinit(&p->row);
        free(p);
        p = next;
    }
}

/* What waits, up to a limit; *bytes and *n of it. With the lock held. */
static Node *take_group(SweepWriter *w, int64_t *bytes, int64_t *n)
{
    Node *group = w->first, *p = group;
    *n = 1;
    *bytes = sweep_row_bytes(&p->row);
    while (p->next && *n < GROUP && *bytes + sweep_row_bytes(&p->next->row) <= GROUP_BYTES) {
        p = p->next;
        *bytes += sweep_row_bytes(&p->row);
        ++*n;
    }
    w->first = p->next;
    if (!w->first)
        w->last = NULL;
    p->next = NULL;
    return group;
}

static void *writer_main(void *arg)
{
    SweepWriter *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->first && !w->stopping)
            pthread_cond_wait(&w->more, &w->lock);
        if (!w->first)
            break;
        int64_t bytes, n;
        Node *group = take_group(w, &bytes, &n);
        int failed = w->failed;
        pthread_mutex_unlock(&w->lock);
        int rc = failed ? 0 : write_group(w, group);
        drop(group);
        pthread_mutex_lock(&w->lock);
        w->queued -= bytes;
        w->rows -= n;
        if (rc < 0 && !w->failed) {
            w->failed = rc;
            snprintf(w->message, sizeof w->message, "%s", err_message());
        }
        pthread_cond_broadcast(&w->less);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

int sweep_writer_start(SweepWriter **out, SweepStore *store, const SweepWriterConf *conf)
{
    SweepWriter *w = calloc(1, sizeof *w);
    *out = NULL;
    if (!w) {
        sweep_store_deinit(store);
        return err_set(ERR_NOMEM, "out of memory");
    }
    w->store = *store;
    memset(store, 0, sizeof *store);
    w->conf = *conf;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    pthread_cond_init(&w->less, NULL);
    if (pthread_create(&w->thread, NULL, writer_main, w) != 0) {
        sweep_store_deinit(&w->store);
        free(w);
        return err_set(ERR_BACKEND, "cannot start a thread");
    }
    *out = w;
    return 0;
}

/* With the lock held. */
static int status(const SweepWriter *w)
{
    return w->failed ? err_set(w->failed, "%s", w->message) : 0;
}

/* A short wait, so that a signal is seen. With the lock held. */
static int wait_less(SweepWriter *w)
{
    struct timespec until = after(0.2);
    pthread_cond_timedwait(&w->less, &w->lock, &until);
    int number = signal_stop();
    return number && w->paused ? err_set(ERR_STOPPED, "stopped by %s while nothing can be written", signal_name(number)) : status(w);
}

int sweep_writer_put(SweepWriter *w, SweepRow *rows, int n)
{
    int rc = 0, i = 0;
    double start = clock_now();
    pthread_mutex_lock(&w->lock);
    for (; i < n && rc >= 0; i++) {
        int64_t bytes = sweep_row_bytes(&rows[i]);
        rc = status(w);
        while (rc >= 0 && w->rows && w->queued + bytes > w->conf.queue)
            rc = wait_less(w);
        Node *p = rc >= 0 ? calloc(1, sizeof *p) : NULL;
        if (rc < 0)
            break;
        if (!p) {
            rc = err_set(ERR_NOMEM, "out of memory");
            break;
        }
        p->row = rows[i];
        if (w->last)
            w->last->next = p;
        else
            w->first = p;
        w->last = p;
        w->queued += bytes;
        w->rows++;
        pthread_cond_signal(&w->more);
    }
    w->stats.stalled += clock_now() - start;
    pthread_mutex_unlock(&w->lock);
    for (; i < n; i++)
        sweep_row_deinit(&rows[i]);
    return rc;
}

int sweep_writer_flush(SweepWriter *w)
{
    pthread_mutex_lock(&w->lock);
    int rc = status(w);
    while (rc >= 0 && w->rows)
        rc = wait_less(w);
    pthread_mutex_unlock(&w->lock);
    return rc;
}

int64_t sweep_writer_stored(SweepWriter *w, int *paused)
{
    pthread_mutex_lock(&w->lock);
    int64_t n = w->stats.stored;
    *paused = w->paused;
    pthread_mutex_unlock(&w->lock);
    return n;
}

int sweep_writer_stop(SweepWriter *w, SweepWriterStats *out)
{
    if (out)
        *out = (SweepWriterStats){0};
    if (!w)
        return 0;
    pthread_mutex_lock(&w->lock);
    w->stopping = 1;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    int rc = status(w);
    if (out)
        *out = w->stats;
    drop(w->first);
    sweep_store_deinit(&w->store);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->more);
    pthread_cond_destroy(&w->less);
    free(w);
    return rc;
}
