#include "train/saver.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

struct TrainSaver {
    const TrainConf *c;
    const char *config;
    const TrainOrigin *origin;
    int background, running;
    pthread_t thread;
    TrainState copy;
    int rc;             /* of the last write */
    char message[512];
};

int train_saver_create(TrainSaver **out, const TrainConf *c, const char *config, const TrainOrigin *origin, int background)
{
    *out = calloc(1, sizeof **out);
    if (!*out)
        return err_set(ERR_NOMEM, "checkpoints: out of memory");
    **out = (TrainSaver){.c = c, .config = config, .origin = origin, .background = background};
    return 0;
}

static void *write_copy(void *ctx)
{
    TrainSaver *v = ctx;
    v->rc = train_checkpoint_save(&v->copy, v->c, v->config, v->origin);
    snprintf(v->message, sizeof v->message, "%s", v->rc < 0 ? err_message() : "");
    return NULL;
}

static void warn(int64_t step, const char *why)
{
    log_warn("the checkpoint of step %lld was not written: %s; training goes on, older checkpoints stay", (long long)step, why);
}

static void finish(TrainSaver *v)
{
    if (!v->running)
        return;
    pthread_join(v->thread, NULL);
    v->running = 0;
    if (v->rc < 0)
        warn(v->copy.step, v->message);
    train_state_deinit(&v->copy);
}

void train_saver_destroy(TrainSaver *v)
{
    if (!v)
        return;
    finish(v);
    free(v);
}

static int start(TrainSaver *v, const TrainState *s)
{
    int rc = train_state_copy(&v->copy, s);
    if (rc >= 0 && pthread_create(&v->thread, NULL, write_copy, v))
        rc = err_set(ERR_NOMEM, "no thread");
    if (rc < 0)
        train_state_deinit(&v->copy);
    else
        v->running = 1;
    return rc;
}

int train_saver_save(TrainSaver *v, TrainState *s, int must)
{
    finish(v);
    if (v->background && !must && start(v, s) >= 0)
        return 0;
    int rc = train_checkpoint_save(s, v->c, v->config, v->origin);
    if (rc < 0 && !must) {
        warn(s->step, err_message());
        return 0;
    }
    return rc;
}
