#include "train/step.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "comm/exact.h"
#include "ops/optim.h"

const CommPlace train_places[TRAIN_PLACES] = {{"the start of the run", 0},
                                              {"the meeting of the GPUs (NCCL)", 1},
                                              {"the end of the micro-batches", 1},
                                              {"the sum of gradients", 1},
                                              {"the validation or samples", 10},
                                              {"the end", 1},
                                              {"the checkpoint", 10},
                                              {"the saving of results", 10}};

static int collect_slots(TrainTask *t, TrainState *s)
{
    for (int i = 0; i < t->nwrt; i++) {
        const GraphTensor *w = graph_tensor(t->now.g, t->now.wrt[i]);
        TRY(train_state_add(s, w->name, w->meta.dtype, w->meta.shape));
    }
    TRY(train_optimizer_declare(t->conf, s));
    TRY(train_state_alloc(s, t->conf->optimizer.ema > 0));
    for (int i = 0; i < s->count; i++) {
        const NnParam *p = nn_params_find(t->params, s->slot[i].name);
        if (!p)
            return err_set(ERR_NOTFOUND, "trained parameter '%s' is missing", s->slot[i].name);
        TRY(dtype_convert(s->param + s->slot[i].offset, DTYPE_F32, p->data, p->dtype, s->slot[i].count));
    }
    if (s->ema)
        memcpy(s->ema, s->param, (size_t)s->n * sizeof(float));
    return 0;
}

static int64_t tail_count(const TrainStep *p)
{
    return 1 + 2 * p->nset;
}

int train_step_init(TrainStep *p, TrainTask *task, TrainState *state)
{
    *p = (TrainStep){.task = task, .state = state};
    TRY(train_task_executors(task));
    TRY(collect_slots(task, state));
    TRY(train_optimizer_init(&p->optimizer, task->conf, state));
    p->nset = task->conf->datasets.count + 1;
    p->set_loss = calloc((size_t)p->nset, sizeof *p->set_loss);
    TRY(train_device_create(&p->device, task, state));
    int64_t sums = p->device ? 0 : state->n;
    p->sum = malloc((size_t)(sums + tail_count(p)) * sizeof *p->sum);
    p->tail = p->sum + sums;
    p->grad = malloc((size_t)state->n * sizeof *p->grad);
    p->loss = malloc((size_t)task->conf->micro_batch * sizeof *p->loss);
    if (!p->sum || !p->grad || !p->loss || !p->set_loss)
        return err_set(ERR_NOMEM, "training: out of memory");
    return 0;
}

void train_step_deinit(TrainStep *p)
{
    train_optimizer_deinit(&p->optimizer);
    train_device_destroy(p->device);
    p->device = NULL;
    free(p->sum);
    free(p->grad);
    free(p->loss);
    free(p->set_loss);
    p->set_loss = NULL;
    p->sum = p->tail = NULL;
    p->grad = p->loss = NULL;
}

int train_step_join(TrainStep *p)
{
    comm_place(p->task->comm, TRAIN_AT_JOIN, 0, 0);
    return p->device ? train_device_join(p->device) : 0;
}

int train_step_sync(TrainStep *p)
{
    if (p->device)
        TRY(train_device_upload(p->device));
    return train_step_show(p, p->state->param);
}

int train_step_show(TrainStep *p, const float *values)
{
    TrainTask *t = p->task;
    TRY(train_task_set_values(t, p->state, values));
    if (p->device)
        TRY(train_device_show(p->device, values));
    TRY(train_task_bind(t));
    return train_task_use(t, t->at);
}

int train_step_fetch(TrainStep *p)
{
    return p->device ? train_device_fetch(p->device) : 0;
}

static void add_gradients(TrainStep *p, int64_t *bad)
{
    const TrainTask *t = p->task;
    for (int i = 0; i < t->nwrt; i++) {
        const TrainSlot *s = &p->state->slot[i];
        int64_t here = exact_add(p->sum + s->offset, exec_data(t->now.ex, t->now.grad[i]), s->count);
        if (here && p->bad_slot > i)
            p->bad_slot = i;
        *bad += here;
    }
}

/* last: of this rank's in this step. */
static int micro_batch(TrainStep *p, int64_t position, int last, int64_t *bad)
{
    TrainTask *t = p->task;
    double began = clock_now();
    comm_place(t->comm, TRAIN_AT_MICRO, p->state->step + 1, 0);
    TRY(t->fill(t, position));
    double filled = clock_now();
    p->seconds[TRAIN_PHASE_DATA] += filled - began;
    TRY(p->device ? train_device_run(p->device, last) : exec_run(t->now.ex));
    double ran = clock_now();
    p->seconds[TRAIN_PHASE_COMPUTE] += ran - filled;
    if (!p->device)
        add_gradients(p, bad);
    TRY(exec_read_f32(t->now.ex, t->now.loss, p->loss, t->conf->micro_batch));
    for (int j = 0; j < t->conf->micro_batch; j++) {
        float share = p->loss[j] / (float)t->conf->batch;
        *bad += exact_add(p->tail, &share, 1);
        if (!t->set)
            continue;
        int64_t *of_set = p->tail + 1 + t->set[j];
        *bad += exact_add(of_set, &p->loss[j], 1);
        of_set[p->nset]++;
    }
    p->seconds[TRAIN_PHASE_UPDATE] += clock_now() - ran;
    return 0;
}

/* torch.nn.utils.clip_grad_norm_ */
static float clip_factor(double norm, double clip)
{
    double f = clip / (norm + 1e-6);
    return clip > 0 && f < 1 ? (float)f : 1.0f;
}

/* The weight of the new values in the running average, smaller at first. */
static float average_rate(const TrainStep *p)
{
    double warm = (1.0 + (double)p->state->step) / (10.0 + (double)p->state->step), d = (double)p->task->conf->optimizer.ema;
    return 1 - (float)(warm < d ? warm : d);
}

static int apply(TrainStep *p)
{
    double clip = (double)p->task->conf->optimizer.clip;
    TrainState *s = p->state;
    if (p->device) {
        TRY(train_device_norm(p->device, &p->norm));
        return train_device_step(p->device, &p->optimizer, clip_factor(p->norm, clip), average_rate(p));
    }
    exact_to_float(p->grad, p->sum, s->n, 1.0);
    p->norm = sqrt(cpu_optim_sumsq(p->grad, s->n));
    train_optimizer_step(&p->optimizer, s, p->grad, clip_factor(p->norm, clip));
    train_optimizer_average(s, average_rate(p));
    return 0;
}

/* What the task limits lies on the host; on a device it comes down for that and goes up again. */
static int limit(TrainStep *p)
{
    TrainTask *t = p->task;
    TrainState *s = p->state;
    if (!t->limit && p->device)
        return 0;
    if (p->device)
        TRY(train_device_fetch_values(p->device));
    TRY(train_task_set_values(t, s, s->param));
    if (t->limit)
        TRY(t->limit(t, s));
    if (p->device)
        TRY(train_device_show(p->device, s->param));
    return train_task_bind(t);
}

/* The first tensor, in slot order, that had a bad gradient on any rank. Collective. */
static int bad_tensor(TrainStep *p, const char **name)
{
    int64_t first = -p->bad_slot;
    TRY(comm_max_i64(p->task->comm, &first, 1));
    *name = -first < p->state->count ? p->state->slot[-first].name : "the loss";
    return 0;
}

/* The step changes nothing; many in a row end the run. The message is that of exact_check. */
static int skip(TrainStep *p)
{
    const char *name;
    char why[256];
    snprintf(why, sizeof why, "%s", err_message());
    TRY(bad_tensor(p, &name));
    p->state->skipped++;
    if (p->task->comm->rank == 0)
        log_warn("step %lld skipped: %s, first in '%s'", (long long)p->state->step + 1, why, name);
    if (++p->skips < p->task->conf->optimizer.max_skips)
        return 0;
    return err_set(ERR_NUMERIC, "%d steps in a row have no finite gradient: %s, first in '%s'; lower optimizer.lr", p->skips, why, name);
}

static void losses_of_sets(TrainStep *p)
{
    const int64_t *sum = p->tail + 1, *count = sum + p->nset;
    for (int k = 0; k < p->nset; k++) {
        p->set_loss[k] = NAN;
        if (count[k])
            exact_to_float(&p->set_loss[k], &sum[k], 1, 1.0 / (double)count[k]);
    }
}

/* Of a step with values that are not finite: keeps the message. */
static int drop(TrainStep *p)
{
    char why[256];
    snprintf(why, sizeof why, "%s", err_message());
    TRY(comm_agree(p->task->comm, train_device_drop(p->device)));
    return err_set(ERR_NUMERIC, "%s", why);
}

/* Sums of all ranks. Collective. */
static int reduce(TrainStep *p, int64_t bad)
{
    Comm *c = p->task->comm;
    int64_t left_out = 0, large = 0;
    if (!p->device)
        return exact_reduce(c, p->sum, p->state->n + tail_count(p), bad);
    TRY(comm_agree(c, train_device_counts(p->device, &left_out, &large, &p->bad_slot)));
    int rc = exact_check(c, p->tail, tail_count(p), bad + left_out, large);
    if (rc == ERR_NUMERIC)
        return drop(p);
    TRY(rc);
    TRY(comm_sum_i64(c, p->tail, tail_count(p)));
    return comm_agree(c, train_device_sum(p->device));
}

static int begin(TrainStep *p)
{
    p->bad_slot = p->state->count;
    memset(p->tail, 0, (size_t)tail_count(p) * sizeof *p->tail);
    if (p->device)
        return train_device_begin(p->device);
    memset(p->sum, 0, (size_t)p->state->n * sizeof *p->sum);
    return 0;
}

int train_step_run(TrainStep *p)
{
    TrainTask *t = p->task;
    TrainState *s = p->state;
    const TrainConf *c = t->conf;
    int64_t bad = 0;
    int rc = begin(p), micro = c->batch / c->micro_batch;
    comm_place(t->comm, TRAIN_AT_MICRO, s->step + 1, 0);
    for (int m = t->comm->rank; rc >= 0 && m < micro; m += t->comm->size)
        rc = micro_batch(p, s->step * c->batch + (int64_t)m * c->micro_batch, m + t->comm->size >= micro, &bad);
    double began = clock_now();
    TRY(comm_agree(t->comm, rc));
    comm_place(t->comm, TRAIN_AT_SUM, s->step + 1, 0);
    rc = reduce(p, bad);
    double reduced = clock_now();
    p->seconds[TRAIN_PHASE_COMM] += reduced - began;
    if (rc < 0 && rc != ERR_NUMERIC)
        return rc;
    float loss = NAN, norm = NAN;
    if (rc == ERR_NUMERIC) {
        TRY(skip(p));
    } else {
        p->skips = 0;
        exact_to_float(&loss, p->tail, 1, 1.0);
        TRY(apply(p));
        norm = (float)p->norm;
        losses_of_sets(p);
        TRY(limit(p));
    }
    p->seconds[TRAIN_PHASE_UPDATE] += clock_now() - reduced;
    return train_state_push_step(s, loss, norm);
}
