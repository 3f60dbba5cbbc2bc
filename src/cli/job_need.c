#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/job_conf.h"
#include "graph/device.h"
#include "sweep/plan_rate.h"
#include "sweep/sweep.h"
#include "train/loop.h"

void job_need_deinit(JobNeed *n)
{
    free(n->output);
    n->output = NULL;
}

static int need_sweep(JobNeed *n, const char *path, const char *const *overrides, int count)
{
    SweepConf c = {0};
    SweepNeed need;
    int rc;
    TRY_GOTO(sweep_conf_read(&c, path, overrides, count));
    TRY_GOTO(str_copy(&n->output, c.output));
    TRY_GOTO(sweep_plan_need(&c, cli_threads(NULL, c.threads), &need));
    n->cpu = c.device == DEVICE_CPU;
    n->images = need.images;
    n->bytes = need.peak + (double)c.queue;
    n->flops = need.flops;
    if (n->rate <= 0)
        rc = sweep_rate_measure(&n->rate, sweep_conf_dtype(&c), cli_threads(NULL, c.threads));
done:
    config_deinit(&sweep_conf_table, &c);
    return rc;
}

static int need_train(JobNeed *n, const char *path, const char *const *overrides, int count)
{
    TrainConf c = {0};
    TrainNeed need;
    Backend *be = NULL;
    int rc;
    TRY_GOTO(train_conf_read(&c, path, overrides, count));
    TRY_GOTO(str_copy(&n->output, c.output));
    TRY_GOTO(device_create(&be, c.device, 0, cli_threads(NULL, c.threads)));
    TRY_GOTO(train_plan(&c, be, &need));
    n->cpu = c.device == DEVICE_CPU;
    n->images = (int64_t)c.steps * c.batch;
    n->bytes = need.arena + need.params + 2 * need.state; /* a checkpoint is written from a copy */
    n->flops = need.flops_image * (double)n->images;
    if (n->rate <= 0)
        rc = sweep_rate_measure(&n->rate, train_conf_dtype(&c), cli_threads(NULL, c.threads));
done:
    backend_destroy(be);
    train_conf_deinit(&c);
    return rc;
}

int job_need(JobNeed *n, const JobConf *j, const char *config, const char *const *overrides, int count)
{
    memset(n, 0, sizeof *n);
    n->rate = j->tflops * 1e12;
    TRY(cli_config_is_sweep(config, &n->sweep));
    return n->sweep ? need_sweep(n, config, overrides, count) : need_train(n, config, overrides, count);
}
