#include "train/watch.h"

#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "io/events.h"
#include "io/file.h"
#include "train/dreambooth.h"

struct TrainWatch {
    const TrainConf *c;
    const char *config;
    IoEvents *events; /* NULL: off, or given up */
    int64_t first, step;
};

static void check(TrainWatch *w, int rc)
{
    if (rc >= 0)
        return;
    log_warn("tensorboard: %s; no more events are written", err_message());
    io_events_close(w->events);
    w->events = NULL;
}

TrainWatch *train_watch_create(const TrainConf *c, const char *config, int64_t step)
{
    TrainWatch *w = calloc(1, sizeof *w);
    char *dir = NULL;
    if (!w)
        return NULL;
    *w = (TrainWatch){.c = c, .config = config, .first = step, .step = step};
    if (!c->tensorboard)
        return w;
    int rc = io_path_join(&dir, c->output, "tensorboard");
    if (rc >= 0)
        rc = io_events_open(&w->events, dir, "atelier", step);
    free(dir);
    check(w, rc);
    StrBuf text;
    str_init(&text);
    str_add_format(&text, "```\n%s```\n", config);
    if (w->events && step == 0 && str_status(&text) >= 0)
        check(w, io_events_text(w->events, 0, "config", text.data));
    str_deinit(&text);
    return w;
}

void train_watch_destroy(TrainWatch *w)
{
    if (!w)
        return;
    io_events_close(w->events);
    free(w);
}

static void scalar(TrainWatch *w, int64_t step, const char *tag, double v)
{
    if (w->events && isfinite(v))
        check(w, io_events_scalar(w->events, step, tag, (float)v));
}

static void losses_of_sets(TrainWatch *w, const TrainStep *p, int64_t step)
{
    const TrainDatasetConf *d = w->c->datasets.items;
    int n = w->c->datasets.count;
    char *tag;
    if (n + (w->c->dreambooth.class_prompt[0] != 0) < 2)
        return;
    for (int k = 0; k <= n; k++) {
        if (!isfinite(p->set_loss[k]))
            continue;
        if (str_format(&tag, "loss/%d-%s", k, k < n ? io_path_name(d[k].path) : "class") < 0)
            return;
        scalar(w, step, tag, (double)p->set_loss[k]);
        free(tag);
    }
}

void train_watch_step(TrainWatch *w, const TrainStep *p, double rate)
{
    if (!w || !w->events)
        return;
    const TrainState *s = p->state;
    int64_t at = s->step;
    scalar(w, at, "loss/train", (double)s->loss[at - 1]);
    scalar(w, at, "gradient_norm", (double)s->norm[at - 1]);
    scalar(w, at, "learning_rate", (double)train_conf_lr(w->c, at - 1));
    scalar(w, at, "images_per_second", rate);
    losses_of_sets(w, p, at);
    if (w->events)
        check(w, io_events_flush(w->events));
}

void train_watch_validation(TrainWatch *w, int64_t step, double loss)
{
    if (w)
        scalar(w, step, "loss/validation", loss);
}

void train_watch_at(TrainWatch *w, int64_t step)
{
    if (w)
        w->step = step;
}

void train_watch_sample(void *ctx, int index, const uint8_t *png, size_t size, int width, int height)
{
    TrainWatch *w = ctx;
    char *tag;
    if (!w || !w->events || str_format(&tag, "sample/%d %s", index, w->c->samples.prompts.items[index]) < 0)
        return;
    check(w, io_events_image(w->events, w->step, tag, png, size, width, height));
    free(tag);
}

void train_watch_report(TrainWatch *w, const TrainStep *p, const TrainTask *t, double seconds)
{
    if (w && w->c->report && train_report_write(w->c, w->config, p, t, w->first, seconds) < 0)
        log_warn("report: %s", err_message());
}
