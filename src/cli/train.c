#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/signal.h"
#include "cli/cli.h"
#include "comm/device.h"
#include "graph/device.h"
#include "train/loop.h"

static const char usage[] =
    "usage: [mpirun -np N] atelier train [--locked] [--resume auto|no] CONFIG.yaml [key=value ...]\n\n"
    "Fine-tunes a model, data-parallel over the ranks, and writes checkpoints and results into the output folder.\n"
    "The result is the same, bit for bit, for any number of ranks and after any interruption: run the same command\n"
    "again to continue (--resume auto, the default; no: start over). SIGTERM, SIGINT and SIGUSR1 save the state at the\n"
    "end of the step and stop (exit code 3).\n"
    "Send mpirun SIGUSR1, which it passes on; after SIGTERM or Ctrl-C it kills the ranks within a second or so.\n"
    "--locked refuses to run unless CONFIG.yaml.lock (atelier lock) matches everything that is read.\n"
    "`atelier plan CONFIG.yaml` says what a run will need.\n";

/* The main thread of this rank is in something that does not end. */
static void stuck(void *ctx, const char *why)
{
    Comm *c = ctx;
    log_error("rank %d does not get out of what it is doing and is ended here: %s", c->rank, why);
    _exit(CLI_ERROR);
}

static int run(Comm *comm, const TrainConf *c)
{
    Backend *be = NULL;
    TrainResult r;
    int rc = device_create(&be, c->device, comm->local_rank, cli_threads(comm, c->threads));
    if (rc >= 0)
        rc = signal_install();
    TRY_GOTO(comm_agree(comm, rc));
    TRY_GOTO(comm_device_check(comm, be));
    TRY_GOTO(comm_guard_create(comm, &(CommGuardConf){c->patience, train_places, TRAIN_PLACES, stuck, comm}));
    TRY_GOTO(train_run(c, comm, be, &r));
    if (comm->rank == 0)
        printf("%lld steps, loss %.5f -> %.5f, %.1f images/s; results in %s\n", (long long)r.steps, (double)r.first_loss,
               (double)r.last_loss, r.images_per_s, c->output);
done:
    backend_destroy(be);
    return rc;
}

/* "--resume auto|yes|no" is another way to write resume=true and false. ERR_FORMAT. */
static int resume_option(int *argc, char **argv)
{
    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], "--resume"))
            continue;
        const char *how = i + 1 < *argc ? argv[i + 1] : "";
        int on = !strcmp(how, "auto") || !strcmp(how, "yes");
        if (!on && strcmp(how, "no"))
            return err_set(ERR_FORMAT, "--resume: expected auto, yes or no");
        argv[i] = on ? "resume=true" : "resume=false";
        for (int k = i + 1; k + 1 < *argc; k++)
            argv[k] = argv[k + 1];
        (*argc)--;
    }
    return 0;
}

int cli_train(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, &train_conf_table);
    Comm comm;
    int rc = comm_init(&comm, &argc, &argv);
    if (rc < 0)
        return cli_exit(rc);
    log_set_rank(comm.size > 1 ? comm.rank : -1);
    rc = resume_option(&argc, argv);
    const char **overrides = calloc((size_t)argc + 1, sizeof *overrides), *path = NULL;
    int count = 0;
    TrainConf c = {0};
    int locked = cli_take_flag(&argc, argv, "--locked");
    if (rc >= 0)
        rc = overrides ? cli_config_args(argc, argv, &path, overrides, &count) : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0)
        rc = cli_config_other(train_conf_read(&c, path, overrides, count), path, 0);
    if (rc >= 0 && comm.rank == 0)
        rc = cli_lock_check(path, overrides, count, locked);
    rc = comm_agree(&comm, rc);
    if (rc >= 0)
        rc = run(&comm, &c);
    train_conf_deinit(&c);
    free(overrides);
    return cli_exit_all(&comm, rc);
}
