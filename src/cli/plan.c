#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "graph/device.h"
#include "sweep/sweep.h"
#include "train/loop.h"

static const char usage[] =
    "usage: atelier plan CONFIG.yaml [key=value ...]\n\n"
    "Says what a run will need before anything is allocated: steps or images, operations, exact bytes of every arena, weights;\n"
    "for a sweep also bytes on disk, and the time by an earlier run's speed or by a short measurement.\n"
    "A configuration with the key `axes` or `prompt` is a sweep, any other one is training.\n";

static int plan_sweep(const char *path, const char *const *overrides, int count)
{
    SweepConf c = {0};
    StrBuf b;
    int rc;
    str_init(&b);
    TRY_GOTO(sweep_conf_read(&c, path, overrides, count));
    TRY_GOTO(sweep_plan_text(&c, cli_threads(NULL, c.threads), &b));
    fputs(b.data, stdout);
done:
    str_deinit(&b);
    config_deinit(&sweep_conf_table, &c);
    return rc;
}

static int plan_train(const char *path, const char *const *overrides, int count)
{
    TrainConf c = {0};
    Backend *be = NULL;
    int rc;
    TRY_GOTO(train_conf_read(&c, path, overrides, count));
    TRY_GOTO(device_create(&be, c.device, 0, cli_threads(NULL, c.threads)));
    rc = train_plan_print(&c, be);
done:
    backend_destroy(be);
    train_conf_deinit(&c);
    return rc;
}

int cli_plan(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    const char **overrides = calloc((size_t)argc + 1, sizeof *overrides), *path;
    int count, sweep = 0;
    int rc = overrides ? cli_config_args(argc, argv, &path, overrides, &count) : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0)
        rc = cli_config_is_sweep(path, &sweep);
    if (rc >= 0)
        rc = sweep ? plan_sweep(path, overrides, count) : plan_train(path, overrides, count);
    free(overrides);
    return cli_exit(rc);
}
