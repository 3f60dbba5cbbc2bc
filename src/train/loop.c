#include "train/loop.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/signal.h"
#include "comm/share.h"
#include "io/file.h"
#include "train/dreambooth.h"
#include "train/samples.h"
#include "train/saver.h"
#include "train/watch.h"

typedef struct {
    const TrainConf *c;
    Comm *comm;
    TrainTask task;
    TrainState state;
    TrainStep step;
    TrainOrigin origin; /* hashes at first on rank 0 only: the others follow it */
    char *config;      /* resolved YAML */
    IoLock *lock;      /* rank 0 */
    TrainSaver *saver; /* rank 0 */
    TrainWatch *watch; /* rank 0 */
    double began;
    int resumed;
    int running;       /* prepared */
    int sees;          /* the output folder is rank 0's */
} Loop;

static int clean_temps(const char *output)
{
    char *dir;
    TRY(io_dir_remove_temps(output));
    TRY(io_path_join(&dir, output, "checkpoints"));
    int rc = io_file_is_dir(dir) ? io_dir_remove_temps(dir) : 0;
    free(dir);
    return rc;
}

static int open_output(Loop *l)
{
    StrBuf text;
    str_init(&text);
    int rc = config_dump(&train_conf_table, l->c, &text);
    if (rc >= 0)
        rc = str_take(&l->config, &text);
    str_deinit(&text);
    if (rc < 0 || l->comm->rank)
        return rc;
    TRY(io_dir_make(l->c->output));
    TRY(io_lock_acquire(&l->lock, l->c->output));
    return clean_temps(l->c->output);
}

/* Once nothing speaks against the run any more. */
static int write_config(const Loop *l)
{
    char *path;
    if (l->comm->rank)
        return 0;
    TRY(io_path_join(&path, l->c->output, "config.yaml"));
    int rc = io_file_write(path, l->config, strlen(l->config));
    free(path);
    return rc;
}

/* Ranks that compute other last bits would let the result depend on who computes what. Collective. */
static int check_labels(Loop *l)
{
    enum { SIZE = 32 };
    char mine[SIZE] = "", *all = malloc((size_t)l->comm->size * SIZE);
    int rc = all ? 0 : err_set(ERR_NOMEM, "out of memory");
    snprintf(mine, sizeof mine, "%s", l->task.be->label);
    rc = comm_agree(l->comm, rc);
    if (rc >= 0)
        rc = comm_allgather(l->comm, mine, SIZE, all);
    for (int r = 1; rc >= 0 && r < l->comm->size; r++)
        if (strcmp(all, all + (size_t)r * SIZE))
            rc = err_set(ERR_RANGE, "rank 0 computes with %s, rank %d with %s, and the result would depend on who computes what: set device, or "
                         "ATELIER_ISA=base|avx2|avx512 in the environment, alike for all", all, r, all + (size_t)r * SIZE);
    free(all);
    return rc;
}

static int find_origin(Loop *l)
{
    uint8_t sum[HASH_SIZE];
    l->origin.backend = l->task.be->label;
    if (l->comm->rank)
        return 0;
    TRY(train_dataset_digest(l->task.data, sum));
    hash_hex(l->origin.data, sum, HASH_SIZE);
    memcpy(l->origin.model, l->task.model_hash, sizeof l->origin.model);
    return 0;
}

/* To machines that do not share the output folder: the newest checkpoints of rank 0. */
static int spread_checkpoints(Loop *l)
{
    char *dir = NULL;
    int all;
    TRY(comm_share_test(l->comm, l->c->output, &l->sees, &all));
    if (all || !l->c->resume)
        return 0;
    if (l->comm->rank == 0)
        log_info("the output folder is not shared by all ranks: rank 0 keeps it and sends checkpoints to the others");
    int rc = comm_agree(l->comm, io_path_join(&dir, l->c->output, "checkpoints"));
    if (rc >= 0)
        rc = comm_share_spread_dir(l->comm, dir, ".h5", l->c->checkpoint.keep, l->sees, NULL);
    free(dir);
    return rc;
}

static int resume(Loop *l)
{
    int found = 0, rc = 0;
    TRY(spread_checkpoints(l));
    if (l->c->resume)
        rc = train_checkpoint_resume(&l->state, l->c, &l->origin, &found);
    TRY(comm_agree(l->comm, rc));
    int64_t step[2] = {l->state.step, -l->state.step};
    TRY(comm_max_i64(l->comm, step, 2));
    if (step[0] != -step[1])
        return err_set(ERR_IO, "ranks see different checkpoints in %s: steps %lld and %lld", l->c->output,
                       (long long)-step[1], (long long)step[0]);
    l->resumed = found;
    if (found && l->comm->rank == 0)
        log_info("resumed at step %lld", (long long)l->state.step);
    return 0;
}

/* Only a state that would be lost must be written: the run stops here. */
static int checkpoint(Loop *l, int must)
{
    int rc = l->comm->rank ? 0 : train_step_fetch(&l->step);
    if (rc >= 0 && !l->comm->rank)
        rc = train_saver_save(l->saver, &l->state, must);
    comm_place(l->comm, TRAIN_AT_CHECKPOINT, l->state.step, 0);
    return comm_agree(l->comm, rc);
}

/* A rank did not come, and the state is that after the last whole step: one of those that are left saves it. Adds to the message. */
static void save_lost(Loop *l)
{
    char why[512];
    if (!comm_lost_is_saver(l->comm))
        return;
    snprintf(why, sizeof why, "%s", err_message());
    int rc = l->running && l->sees ? train_step_fetch(&l->step) : 0;
    if (rc >= 0 && l->running && l->sees)
        rc = l->saver ? train_saver_save(l->saver, &l->state, 1) : train_checkpoint_save(&l->state, l->c, l->config, &l->origin);
    if (rc < 0)
        log_error("the state after step %lld was not saved: %s", (long long)l->state.step, err_message());
    int there = rc >= 0 && l->running && l->sees;
    err_set(ERR_PEER, there ? "%s. The state after step %lld is saved: the same command continues" : "%s", why, (long long)l->state.step);
}

static int validate(Loop *l)
{
    TrainState *s = &l->state;
    double loss;
    TRY(l->task.validate(&l->task, &loss));
    if (l->comm->rank == 0)
        log_info("step %lld: validation loss %.5f", (long long)s->step, loss);
    train_watch_validation(l->watch, s->step, loss);
    return train_state_push_validation(s, s->step, (float)loss);
}

static int validation_is_due(const Loop *l)
{
    const TrainState *s = &l->state;
    if (!l->task.validate || (s->nvalid && s->valid_step[s->nvalid - 1] == s->step))
        return 0;
    return s->step == 0 || s->step == l->c->steps || s->step % l->c->validation.every == 0;
}

static int samples_are_due(const Loop *l)
{
    int due = l->comm->rank == 0 && train_samples_due(l->c, l->state.step);
    return l->c->samples.prompts.count ? comm_any(l->comm, due) : 0;
}

static int save_is_due(const Loop *l)
{
    int64_t step = l->state.step;
    return l->c->save_every && step && step < l->c->steps && step % l->c->save_every == 0;
}

/* What cannot be written is not worth the run. */
static void save_so_far(Loop *l, const float *values)
{
    TrainPlace to = {0};
    char *folder = NULL;
    if (l->comm->rank)
        return;
    snprintf(to.mark, sizeof to.mark, "-%08lld", (long long)l->state.step);
    int rc = io_path_join(&folder, l->c->output, "saves");
    to.folder = folder;
    if (rc >= 0)
        rc = l->task.save(&l->task, &l->state, values, &to);
    if (rc < 0)
        log_warn("the files of step %lld are not in %s/saves, training goes on: %s", (long long)l->state.step, l->c->output, err_message());
    free(folder);
}

/* With the values that would be saved, then back to those that are trained. */
static int look(Loop *l)
{
    TrainTask *t = &l->task;
    TrainState *s = &l->state;
    int valid = validation_is_due(l), samples = samples_are_due(l), saved = save_is_due(l), averages = train_optimizer_averages(s, l->c);
    TRY(samples);
    const float *values = s->param;
    if (!valid && !samples && !saved)
        return 0;
    if (samples || saved || averages) { /* what is rendered or written, and averages, are taken from the host */
        TRY(train_step_fetch(&l->step));
        values = train_optimizer_values(s, l->c, l->step.grad);
        TRY(train_step_show(&l->step, values));
    }
    if (saved) {
        save_so_far(l, values);
        comm_place(l->comm, TRAIN_AT_END, s->step, 0); /* the others have patience with the files */
        TRY(comm_agree(l->comm, 0));
        comm_place(l->comm, TRAIN_AT_LOOK, s->step, 0);
    }
    if (valid)
        TRY(validate(l));
    train_watch_at(l->watch, s->step);
    if (samples)
        TRY(train_samples_run(t, s->step, l->watch ? train_watch_sample : NULL, l->watch));
    return averages ? train_step_show(&l->step, s->param) : 0;
}

static float mean_loss(const TrainState *s, int64_t from, int64_t to)
{
    double sum = 0;
    int64_t n = 0;
    for (int64_t i = from < 0 ? 0 : from; i < to; i++)
        if (isfinite(s->loss[i]))
            sum += (double)s->loss[i], n++;
    return n ? (float)(sum / (double)n) : NAN;
}

static int run_steps(Loop *l, TrainResult *r)
{
    TrainState *s = &l->state;
    Progress bar;
    int64_t first = s->step;
    int stopped = 0;
    progress_init(&bar, "step", first, l->c->steps, l->comm->rank == 0);
    TRY(look(l));
    while (s->step < l->c->steps && !stopped) {
        TRY(train_step_run(&l->step));
        double rate = progress_rate(&bar, s->step) * l->c->batch;
        train_watch_step(l->watch, &l->step, rate);
        comm_place(l->comm, TRAIN_AT_LOOK, s->step, 0);
        TRY(look(l));
        progress_update(&bar, s->step, "loss %.4f  norm %.2e  lr %.1e  %.1f images/s", (double)mean_loss(s, s->step - 50, s->step),
                        l->step.norm, (double)train_conf_lr(l->c, s->step - 1), rate);
        comm_place(l->comm, TRAIN_AT_END_OF_STEP, s->step, 0);
        stopped = comm_any(l->comm, signal_stop());
        if (stopped < 0)
            return stopped;
        if (stopped || s->step == l->c->steps || s->step % l->c->checkpoint.every == 0)
            TRY(checkpoint(l, stopped));
        r->images_per_s = rate;
    }
    progress_break(&bar);
    int64_t tenth = s->step / 10 + 1;
    r->steps = s->step;
    r->first = first;
    r->values = s->n;
    r->wall = clock_now() - l->began;
    memcpy(r->seconds, l->step.seconds, sizeof r->seconds);
    r->first_loss = mean_loss(s, 0, tenth);
    r->last_loss = mean_loss(s, s->step - tenth, s->step);
    return stopped ? err_set(ERR_STOPPED, "stopped by %s after step %lld; run again to continue", signal_name(stopped),
                             (long long)s->step)
                   : 0;
}

static int write_csv(const Loop *l, const char *name, const int64_t *step, const float *loss, int64_t n)
{
    StrBuf b;
    char *path = NULL;
    str_init(&b);
    str_add(&b, "step,loss\n");
    for (int64_t i = 0; i < n; i++)
        str_add_format(&b, "%lld,%.9g\n", (long long)(step ? step[i] : i + 1), (double)loss[i]);
    int rc = str_status(&b);
    if (rc >= 0)
        rc = io_path_join(&path, l->c->output, name);
    if (rc >= 0)
        rc = io_file_write(path, b.data, b.len);
    str_deinit(&b);
    free(path);
    return rc;
}

static int finish(Loop *l)
{
    int rc = 0;
    comm_place(l->comm, TRAIN_AT_END, 0, 0);
    if (l->comm->rank == 0)
        rc = train_step_fetch(&l->step);
    if (rc >= 0 && l->comm->rank == 0) {
        const float *values = train_optimizer_values(&l->state, l->c, l->step.grad);
        rc = train_step_show(&l->step, values); /* a task may run its graph to save */
        if (rc >= 0)
            rc = l->task.save(&l->task, &l->state, values, &(TrainPlace){.folder = l->c->output});
        if (rc >= 0)
            rc = write_csv(l, "loss.csv", NULL, l->state.loss, l->state.step);
        if (rc >= 0 && l->state.nvalid)
            rc = write_csv(l, "validation.csv", l->state.valid_step, l->state.valid_loss, l->state.nvalid);
        train_watch_report(l->watch, &l->step, &l->task, clock_now() - l->began);
    }
    return comm_agree(l->comm, rc);
}

static int prepare(Loop *l)
{
    int rc = train_samples_check(l->c);
    if (rc >= 0)
        rc = open_output(l);
    TRY(comm_agree(l->comm, rc));
    TRY(check_labels(l));
    comm_guard_pause(l->comm, 1); /* a sweep goes on without ranks that are lost */
    TRY(train_dreambooth_generate(l->c, l->comm, l->task.be->threads));
    comm_guard_pause(l->comm, 0);
    TRY(train_task_open(&l->task, 0));
    rc = train_step_init(&l->step, &l->task, &l->state);
    if (rc >= 0)
        rc = find_origin(l);
    TRY(comm_agree(l->comm, rc));
    TRY(train_step_join(&l->step));
    comm_place(l->comm, TRAIN_AT_START, 0, 0);
    TRY(resume(l));
    rc = train_step_sync(&l->step);
    if (rc >= 0)
        rc = write_config(l);
    if (rc >= 0 && l->comm->rank == 0)
        rc = train_samples_forget(l->c, l->state.step || l->resumed ? l->state.step : -1);
    if (rc >= 0 && l->comm->rank == 0)
        rc = train_saver_create(&l->saver, l->c, l->config, &l->origin, l->c->checkpoint.background && train_task_spare(&l->task));
    if (rc >= 0 && l->comm->rank == 0 && (l->c->tensorboard || l->c->report))
        l->watch = train_watch_create(l->c, l->config, l->state.step);
    l->began = clock_now();
    TRY(comm_agree(l->comm, rc));
    l->running = 1;
    TRY(comm_bcast(l->comm, l->origin.model, sizeof l->origin.model, 0));
    return comm_bcast(l->comm, l->origin.data, sizeof l->origin.data, 0);
}

int train_run(const TrainConf *c, Comm *comm, Backend *be, TrainResult *result)
{
    Loop l = {.c = c, .comm = comm, .task = {.conf = c, .comm = comm, .be = be}};
    memset(result, 0, sizeof *result);
    int rc = prepare(&l);
    if (rc >= 0 && comm->rank == 0)
        log_info("%lld trained values, %d images per step on %d rank%s, arena %.1f MiB per rank", (long long)l.state.n, c->batch,
                 comm->size, comm->size > 1 ? "s" : "", (double)plan_arena_bytes(l.task.now.plan) / (1 << 20));
    if (rc >= 0 && comm->rank == 0 && l.task.recomputed)
        log_info("%s", l.task.recomputed);
    if (rc >= 0)
        rc = run_steps(&l, result);
    if (rc >= 0)
        rc = finish(&l);
    save_lost(&l);
    train_saver_destroy(l.saver);
    train_watch_destroy(l.watch);
    train_step_deinit(&l.step);
    train_task_close(&l.task);
    train_state_deinit(&l.state);
    io_lock_release(l.lock);
    free(l.config);
    return rc;
}

int train_plan(const TrainConf *c, Backend *be, TrainNeed *n)
{
    Comm comm;
    comm_init_self(&comm);
    TrainTask t = {.conf = c, .comm = &comm, .be = be};
    memset(n, 0, sizeof *n);
    int rc = train_task_open(&t, 1);
    if (rc >= 0) {
        for (int i = 0; i < t.nwrt; i++)
            n->trained += (double)shape_count(&graph_meta(t.now.g, t.now.wrt[i])->shape);
        train_task_bytes(&t, &n->arena, &n->params, &n->state);
        n->images = train_dataset_count(t.data);
        n->epoch = train_dataset_epoch(t.data);
        n->flops_image = graph_flops(t.now.g) / c->micro_batch;
        n->live = (double)plan_live_bytes(t.now.plan);
        n->nodes = plan_node_count(t.now.plan);
        snprintf(n->recomputed, sizeof n->recomputed, "%s", t.recomputed ? t.recomputed : "");
    }
    train_task_close(&t);
    return rc;
}

int train_plan_print(const TrainConf *c, Backend *be)
{
    TrainNeed n;
    const double mib = 1 << 20, images = (double)c->steps * c->batch;
    int class_images = 0;
    TRY(train_plan(c, be, &n));
    if (train_dreambooth_missing(c, &class_images) >= 0 && class_images)
        printf("class images    %d will be generated first and are not counted below\n", class_images);
    printf("images          %lld, an epoch of %lld entries\n", (long long)n.images, (long long)n.epoch);
    printf("steps           %d of %d images (%.1f epochs), micro-batches of %d\n", c->steps, c->batch, images / (double)n.epoch,
           c->micro_batch);
    printf("trained values  %.0f\n", n.trained);
    printf("work            %.1f GFLOP per image, %.3g PFLOP in all\n", n.flops_image * 1e-9, n.flops_image * images * 1e-15);
    printf("arena           %.1f MiB (live at once: %.1f MiB), %d ops\n", n.arena / mib, n.live / mib, n.nodes);
    printf("parameters      %.1f MiB (frozen ones stay mapped from the file where the dtype allows)\n", n.params / mib);
    printf("optimizer       %.1f MiB\n", n.state / mib);
    if (n.recomputed[0])
        printf("%s\n", n.recomputed);
    printf("peak per rank   %.1f MiB, with %d thread%s; the program and its libraries take about 100 MiB more\n", (n.arena + n.params + n.state) / mib, be->threads, be->threads > 1 ? "s" : "");
    return 0;
}
