#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/job_conf.h"
#include "cli/process.h"
#include "io/file.h"

static const char usage[] =
    "usage: atelier submit [--dry-run] [--offline] [--cluster FILE.yaml] CONFIG.yaml [key=value ...] [job.KEY=VALUE ...]\n\n"
    "Writes a Slurm job for a training or a sweep into OUTPUT/slurm/ and submits it. Memory and time follow from the plan. A job that can\n"
    "never start (memory, cores, GPUs, nodes or time of the partition, as sinfo shows them) is refused with the setting to change.\n"
    "The job stops with all work saved before its time limit or when it is preempted, goes back to the queue and continues by itself.\n"
    "  --dry-run   only prints the script\n"
    "  --offline   with --dry-run: does not ask sinfo\n"
    "  --cluster   keys of the site, the same for all runs; default: the file that ATELIER_CLUSTER names\n"
    "`atelier status OUTPUT` shows the job and how far it is.\n\n"
    "Keys of job.:\n";

typedef struct {
    const char *config, *cluster;
    int dry_run, offline;
    const char **overrides; /* of the configuration */
    int count;
    const char **job;       /* without "job." */
    int njob;
} Args;

static int parse(int argc, char **argv, Args *a)
{
    a->cluster = getenv("ATELIER_CLUSTER");
    a->dry_run = cli_take_flag(&argc, argv, "--dry-run");
    a->offline = cli_take_flag(&argc, argv, "--offline");
    for (int i = 1; i < argc; i++) {
        const char *value;
        TRY(cli_option("submit", argc, argv, &i, "--cluster", &value));
        if (value)
            a->cluster = value;
        else if (str_starts_with(argv[i], "job.") && config_is_override(argv[i]))
            a->job[a->njob++] = argv[i] + 4;
        else if (config_is_override(argv[i]))
            a->overrides[a->count++] = argv[i];
        else if (argv[i][0] == '-')
            return cli_usage("submit", "unknown option '%s'", argv[i]);
        else if (a->config)
            return cli_usage("submit", "one configuration file expected, got '%s' and '%s'", a->config, argv[i]);
        else
            a->config = argv[i];
    }
    if (a->offline && !a->dry_run)
        return cli_usage("submit", "--offline is for --dry-run");
    return a->config ? 0 : cli_usage("submit", "a configuration file is expected");
}

/* Writes the script and hands it to sbatch; *id is the job's number. */
static int submit_script(const JobNeed *n, const char *name, const char *text, const char *after, char id[64])
{
    char *dir = NULL, *path = NULL, *dependency = NULL;
    StrBuf b;
    int code = 0, rc;
    str_init(&b);
    TRY_GOTO(io_path_join(&dir, n->output, "slurm"));
    TRY_GOTO(io_dir_make(dir));
    TRY_GOTO(str_format(&path, "%s/%s.sbatch", dir, name));
    TRY_GOTO(io_file_write(path, text, strlen(text)));
    TRY_GOTO(str_format(&dependency, "--dependency=%s", after));
    const char *argv[] = {"sbatch", "--parsable", after[0] ? dependency : path, after[0] ? path : NULL, NULL};
    TRY_GOTO(process_capture(argv, &b, 1, &code));
    if (code == 127)
        rc = err_set(ERR_NOTFOUND, "sbatch is not installed: this is no Slurm cluster");
    else if (code)
        rc = err_set(ERR_IO, "sbatch %s: %s", path, b.data);
    snprintf(id, 64, "%.*s", (int)strcspn(b.data, ";\n"), b.data);
done:
    str_deinit(&b);
    free(dir);
    free(path);
    free(dependency);
    return rc;
}

/* OUTPUT/slurm/jobs: "NUMBER TIME SCRIPT" lines, which `atelier status` reads. */
static int remember(const JobNeed *n, const char *id, const char *name)
{
    char *path, *line = NULL, now[CLOCK_UTC_SIZE];
    clock_utc_text(now);
    TRY(str_format(&path, "%s/slurm/jobs", n->output));
    int rc = str_format(&line, "%s %s %s\n", id, now, name);
    int fd = rc < 0 ? -1 : open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (rc >= 0 && (fd < 0 || write(fd, line, strlen(line)) != (ssize_t)strlen(line)))
        rc = err_errno("%s", path);
    if (fd >= 0)
        close(fd);
    free(path);
    free(line);
    return rc;
}

/* Whether OUTPUT/slurm/jobs names a job. */
static int is_noted(const char *jobs, const char *id)
{
    size_t n = strlen(id);
    for (const char *line = jobs; *line; line += strcspn(line, "\n"), line += *line == '\n')
        if (strncmp(line, id, n) == 0 && line[n] == ' ')
            return 1;
    return 0;
}

/* A second job would be refused by the lock of the output folder once it starts. */
static int check_queue(const JobNeed *n)
{
    char *path, *jobs = NULL, *save = NULL, user[32], id[64], state[64];
    const char *argv[] = {"squeue", "-h", "-u", user, "-o", "%F %T", NULL};
    size_t size;
    int code = 0;
    StrBuf b;
    TRY(str_format(&path, "%s/slurm/jobs", n->output));
    int rc = io_file_exists(path) ? io_file_read(&jobs, &size, path, 16 << 20) : 0;
    free(path);
    snprintf(user, sizeof user, "%ld", (long)getuid());
    str_init(&b);
    if (rc >= 0 && jobs)
        rc = process_capture(argv, &b, 0, &code);
    for (char *line = rc >= 0 && jobs && b.len ? strtok_r(b.data, "\n", &save) : NULL; line && rc >= 0; line = strtok_r(NULL, "\n", &save))
        if (sscanf(line, "%63s %63s", id, state) == 2 && is_noted(jobs, id))
            rc = err_set(ERR_BUSY, "job %s of %s is in the queue (%s): scancel %s, or let the new one follow with job.after=%s", id, n->output, state,
                         id, id);
    str_deinit(&b);
    free(jobs);
    return rc;
}

static void say(const JobConf *j, const JobNeed *n, const JobFit *f)
{
    char limit[32] = "none";
    if (f->seconds >= 0)
        job_time_text(f->seconds, limit);
    fprintf(stderr, "%lld images, %.3g PFLOP; %d x %d ranks of %.0f MiB, %lld MiB on a node; about %.1f h%s at %.3g TFLOP/s a rank, limit %s\n",
            (long long)n->images, n->flops * 1e-15, j->nodes, j->tasks_per_node, n->bytes / 1048576, (long long)(f->memory >> 20),
            f->estimate / 3600, j->shards ? " a shard" : "", n->rate * 1e-12, limit);
}

static int submit_all(const Args *a, const JobConf *j, const JobNeed *n, const JobFit *f)
{
    const char *name = n->sweep ? j->shards ? "array" : "sweep" : "train";
    char id[64], after[128] = "";
    StrBuf b;
    int rc = 0;
    if (j->after[0])
        snprintf(after, sizeof after, "afterok:%s", j->after);
    for (int join = 0; join <= (j->shards > 0) && rc >= 0; join++) {
        str_init(&b);
        rc = job_script(&b, j, n, f, join, a->config, a->overrides, a->count);
        if (rc >= 0 && a->dry_run) {
            fputs(b.data, stdout);
        } else if (rc >= 0) {
            rc = submit_script(n, join ? "join" : name, b.data, after, id);
            if (rc >= 0)
                rc = remember(n, id, join ? "join" : name);
            if (rc >= 0)
                printf("%s job %s\n", join ? "join" : name, id);
            snprintf(after, sizeof after, "afterany:%s", id); /* what a shard left out, the join renders */
        }
        str_deinit(&b);
    }
    return rc;
}

static int submit(int argc, char **argv, Args *a)
{
    JobConf j = {0};
    JobNeed n = {0};
    JobFit f;
    int rc;
    TRY(parse(argc, argv, a));
    TRY_GOTO(config_read(&job_conf_table, &j, a->cluster && *a->cluster ? a->cluster : NULL, a->job, a->njob));
    TRY_GOTO(job_need(&n, &j, a->config, a->overrides, a->count));
    TRY_GOTO(job_fit(&f, &j, &n, a->offline));
    if (!a->dry_run && !j.after[0])
        TRY_GOTO(check_queue(&n));
    say(&j, &n, &f);
    rc = submit_all(a, &j, &n, &f);
done:
    job_need_deinit(&n);
    config_deinit(&job_conf_table, &j);
    return rc;
}

int cli_submit(int argc, char **argv)
{
    if (cli_wants_help(argc, argv)) {
        StrBuf b;
        fputs(usage, stdout);
        str_init(&b);
        config_help(&job_conf_table, &b);
        fputs(b.data, stdout);
        str_deinit(&b);
        return CLI_OK;
    }
    Args a = {.overrides = calloc((size_t)argc + 1, sizeof(char *)), .job = calloc((size_t)argc + 1, sizeof(char *))};
    int rc = a.overrides && a.job ? submit(argc, argv, &a) : err_set(ERR_NOMEM, "out of memory");
    free(a.overrides);
    free(a.job);
    return cli_exit(rc);
}
