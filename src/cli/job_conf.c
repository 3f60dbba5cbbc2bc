#include "cli/job_conf.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

static const char *const launchers[] = {"srun", "mpirun", "none", NULL};

static const ConfField fields[] = {
    CONF_STR(JobConf, name, "", "of the job; empty: atelier-COMMAND"),
    CONF_STR(JobConf, partition, "", "empty: the cluster's default"),
    CONF_STR(JobConf, account, "", "who pays"),
    CONF_STR(JobConf, qos, "", "quality of service"),
    CONF_STR(JobConf, constraint, "", "features of the nodes"),
    CONF_STR(JobConf, after, "", "number of a job that must end well before"),
    CONF_I32(JobConf, nodes, "1", 1, 100000, "nodes"),
    CONF_I32(JobConf, tasks_per_node, "1", 1, 4096, "ranks on a node: its GPUs"),
    CONF_I32(JobConf, gpus_per_task, "-1", -1, 64, "-1: 1 where the partition has GPUs and the configuration may use them"),
    CONF_I32(JobConf, cpus_per_task, "0", 0, 4096, "cores of a rank; 0: those of a node, shared among its ranks"),
    CONF_SIZE(JobConf, memory, "0", 0, 0x1p50, "of a node; 0: by the plan, with a fifth and 1 GiB for the system to spare"),
    CONF_STR(JobConf, time, "", "limit as for sbatch --time; empty: by the plan, three times as long. A run goes on in a new job at the limit"),
    CONF_I32(JobConf, shards, "0", 0, 100000, "of a sweep, each a job of its own, joined by one more; 0: one job"),
    CONF_I32(JobConf, parallel, "0", 0, 100000, "shards that may run at once; 0: all"),
    CONF_I32(JobConf, warning, "120", 10, 65535, "seconds before the limit at which the run saves and goes back to the queue"),
    CONF_BOOL(JobConf, requeue, "true", "back to the queue at the limit, when preempted and when a node fails"),
    CONF_I32(JobConf, restarts, "100", 0, 100000, "most times of that"),
    CONF_ENUM(JobConf, launcher, "srun", launchers, "srun (PMIx), mpirun, or none: one process"),
    CONF_STR(JobConf, mpi, "pmix", "srun --mpi"),
    CONF_STR(JobConf, setup, "", "shell lines before the work, such as: module load openmpi atelier"),
    CONF_STR(JobConf, scratch, "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}", "node-local folder for files that may be lost; empty: none"),
    CONF_STRS(JobConf, options, "[]", 0, 100, "more of sbatch's, such as --reservation=art"),
    CONF_F64(JobConf, tflops, "0", 0, 1e6, "sustained TFLOP/s of a rank, for the time; 0: measured on this machine"),
    CONF_SIZE(JobConf, gpu_memory, "0", 0, 0x1p50, "of one GPU, so that what does not fit is refused; 0: not checked"),
};
const ConfTable job_conf_table = CONF_TABLE(JobConf, fields);

int job_time_parse(const char *text, int64_t *seconds)
{
    long long d = 0, a = 0, b = 0, c = 0;
    int n = 0, used = 0;
    if (!strcmp(text, "UNLIMITED") || !strcmp(text, "infinite")) {
        *seconds = -1;
        return 0;
    }
    int days = sscanf(text, "%lld-%n", &d, &used) == 1 && used > 0;
    const char *rest = days ? text + used : text;
    n = sscanf(rest, "%lld%n", &a, &used);
    rest += n == 1 ? used : 0;
    if (n == 1 && sscanf(rest, ":%lld%n", &b, &used) == 1) {
        rest += used;
        n = 2;
        if (sscanf(rest, ":%lld%n", &c, &used) == 1) {
            rest += used;
            n = 3;
        }
    }
    if (n < 1 || *rest || d < 0 || a < 0 || b < 0 || c < 0 || d > 100000 || a > 100000000 || b > 100000 || c > 100000)
        return err_set(ERR_FORMAT, "time '%s': expected minutes, HH:MM:SS or DAYS-HH:MM:SS", text);
    if (days)
        *seconds = d * 86400 + a * 3600 + b * 60 + c;
    else
        *seconds = n == 3 ? a * 3600 + b * 60 + c : a * 60 + b;
    return 0;
}

void job_time_text(int64_t s, char out[32])
{
    snprintf(out, 32, "%lld-%02d:%02d:%02d", (long long)(s / 86400), (int)(s / 3600 % 24), (int)(s / 60 % 60), (int)(s % 60));
}
