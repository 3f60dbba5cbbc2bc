#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/job_conf.h"

/* slurm/job.sh as it is; the path is from the root of the source tree, where make runs. */
__asm__(".section .rodata\n.balign 16\njob_body:\n.incbin \"slurm/job.sh\"\n.byte 0\n.previous\n");
extern const char job_body[];

static void option(StrBuf *b, const char *name, const char *value)
{
    if (value[0])
        str_add_format(b, "#SBATCH --%s=%s\n", name, value);
}

/* 'text' for bash. */
static void quoted(StrBuf *b, const char *text)
{
    str_add_char(b, '\'');
    for (; *text; text++)
        if (*text == '\'')
            str_add(b, "'\\''");
        else
            str_add_char(b, *text);
    str_add_char(b, '\'');
}

static void setting(StrBuf *b, const char *name, const char *value)
{
    str_add_format(b, "%s=", name);
    quoted(b, value);
    str_add_char(b, '\n');
}

static void resources(StrBuf *b, const JobConf *j, const JobFit *f)
{
    char limit[32];
    str_add_format(b, "#SBATCH --nodes=%d\n#SBATCH --ntasks-per-node=%d\n#SBATCH --cpus-per-task=%d\n", j->nodes, j->tasks_per_node, f->cpus);
    if (f->gpus)
        str_add_format(b, "#SBATCH --gpus-per-task=%d\n", f->gpus);
    str_add_format(b, "#SBATCH --mem=%lldM\n", (long long)((f->memory + (1 << 20) - 1) >> 20));
    if (f->seconds >= 0) {
        job_time_text(f->seconds, limit);
        option(b, "time", limit);
    }
}

static void head(StrBuf *b, const JobConf *j, const JobNeed *n, const JobFit *f, int join)
{
    int array = j->shards && !join;
    str_add_format(b, "#!/bin/bash\n#SBATCH --job-name=%s%s\n", j->name[0] ? j->name : n->sweep ? "atelier-sweep" : "atelier-train",
                   join ? "-join" : "");
    option(b, "partition", f->partition);
    option(b, "account", j->account);
    option(b, "qos", j->qos);
    option(b, "constraint", j->constraint);
    resources(b, j, f);
    if (array) {
        str_add_format(b, "#SBATCH --array=0-%d", j->shards - 1);
        str_add_format(b, j->parallel ? "%%%d\n" : "\n", j->parallel);
    }
    str_add_format(b, "#SBATCH --output=%s/slurm/%%x-%s.log\n#SBATCH --open-mode=append\n", n->output, array ? "%A_%a" : "%j");
    str_add_format(b, j->requeue ? "#SBATCH --requeue\n#SBATCH --signal=B:USR1@%d\n" : "#SBATCH --no-requeue\n#SBATCH --signal=B:USR1@%d\n",
                   j->warning);
    for (int i = 0; i < j->options.count; i++)
        str_add_format(b, "#SBATCH %s\n", j->options.items[i]);
}

int job_script(StrBuf *b, const JobConf *j, const JobNeed *n, const JobFit *f, int join, const char *config, const char *const *overrides, int count)
{
    static const char *const launchers[] = {"srun", "mpirun", "none"};
    char program[4096];
    ssize_t len = readlink("/proc/self/exe", program, sizeof program - 1);
    if (len < 0)
        return err_errno("/proc/self/exe");
    program[len] = 0;
    head(b, j, n, f, join);
    str_add_char(b, '\n');
    setting(b, "ATELIER", program);
    setting(b, "COMMAND", n->sweep ? "sweep" : "train");
    setting(b, "CONFIG", config);
    str_add(b, "OVERRIDES=(");
    for (int i = 0; i < count; i++) {
        quoted(b, overrides[i]);
        str_add_char(b, ' ');
    }
    if (j->shards && !join)
        str_add_format(b, "--shard \"$SLURM_ARRAY_TASK_ID/%d\"", j->shards);
    str_add(b, ")\n");
    setting(b, "LAUNCHER", launchers[j->launcher]);
    setting(b, "MPI", j->mpi);
    setting(b, "SETUP", j->setup);
    str_add_format(b, "SCRATCH=%s\nMAX_RESTARTS=%d\n\n", j->scratch, j->requeue ? j->restarts : 0);
    str_add(b, job_body);
    return str_status(b);
}
