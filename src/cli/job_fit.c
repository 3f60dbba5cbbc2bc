#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cli/job_conf.h"
#include "cli/process.h"

static const double MIB = 1 << 20, MEMORY_SHARE = 1.2, TIME_SHARE = 3;
static const int64_t MEMORY_SPARE = (int64_t)1 << 30, TIME_START = 600;

/* Nodes of the partition that are not out of order: how many, the largest, and how many are large enough. */
typedef struct {
    int nodes, cpus, gpus, fitting;
    double mib;
    int64_t limit; /* seconds, -1: none */
    int found;
} Partition;

/* "gpu:2", "gpu:a100:4(S:0-1)", "shard:4,gpu:h100:8". */
static int count_gpus(const char *gres)
{
    int n = 0;
    for (const char *p = gres; p && *p; p = strchr(p, ','), p += p != NULL) {
        const char *end = p + strcspn(p, ",("), *colon = NULL;
        if (strncmp(p, "gpu", 3) != 0 || (p[3] != ':' && p + 3 != end))
            continue;
        for (const char *q = p; q < end; q++)
            if (*q == ':')
                colon = q;
        n += colon && colon[1] >= '0' && colon[1] <= '9' ? atoi(colon + 1) : 1;
        if (*end == '(') /* a comma inside belongs to the sockets */
            p = strchr(end, ')') ? strchr(end, ')') : end;
    }
    return n;
}

static int out_of_order(const char *state)
{
    static const char *const bad[] = {"down", "drain", "drng", "fail", "maint", "unk", "inval", "futr", "boot^"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (strncmp(state, bad[i], strlen(bad[i])) == 0)
            return 1;
    return strchr(state, '*') != NULL; /* does not answer */
}

static int gpus_of(const JobConf *j, const JobNeed *n, int have)
{
    return j->gpus_per_task >= 0 ? j->gpus_per_task : n->cpu || !have ? 0 : 1;
}

/* One pass over sinfo's lines. The partition is chosen by name, or as the one with a star. */
static int survey(Partition *p, JobFit *f, const JobConf *j, const char *sinfo)
{
    char *copy, *save = NULL, *field[7];
    TRY(str_copy(&copy, sinfo));
    for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (process_fields(line, '|', field, 7) != 7)
            continue;
        size_t len = strlen(field[0]);
        int star = len && field[0][len - 1] == '*';
        if (star)
            field[0][len - 1] = 0;
        if (j->partition[0] ? strcmp(j->partition, field[0]) != 0 : !star)
            continue;
        snprintf(f->partition, sizeof f->partition, "%s", field[0]);
        p->found = 1;
        if (job_time_parse(field[5], &p->limit) < 0)
            p->limit = -1;
        if (out_of_order(field[1]))
            continue;
        int cpus = atoi(field[2]), gpus = count_gpus(field[4]);
        double mib = atof(field[3]);
        p->nodes++;
        p->cpus = cpus > p->cpus ? cpus : p->cpus;
        p->gpus = gpus > p->gpus ? gpus : p->gpus;
        p->mib = mib > p->mib ? mib : p->mib;
        p->fitting += cpus >= f->cpus * j->tasks_per_node && gpus >= f->gpus * j->tasks_per_node && mib * MIB >= (double)f->memory;
    }
    free(copy);
    return 0;
}

static int compare(const Partition *p, JobFit *f, const JobConf *j, const JobNeed *n)
{
    const char *what = n->sweep ? "batch, size or keep" : "micro_batch or resolution, set gradient_checkpointing=true";
    if (!p->nodes)
        return err_set(ERR_RANGE, "partition '%s' has no node in order: wait, or choose another job.partition", f->partition);
    if (j->nodes > p->nodes)
        return err_set(ERR_RANGE, "%d nodes, but partition '%s' has %d in order: lower job.nodes", j->nodes, f->partition, p->nodes);
    if (f->gpus * j->tasks_per_node > p->gpus)
        return err_set(ERR_RANGE, "%d x %d GPUs on a node, but the nodes of partition '%s' have %d: lower job.tasks_per_node or set job.gpus_per_task=0",
                       j->tasks_per_node, f->gpus, f->partition, p->gpus);
    if (f->cpus * j->tasks_per_node > p->cpus)
        return err_set(ERR_RANGE, "%d x %d cores on a node, but the nodes of partition '%s' have %d: lower job.cpus_per_task or job.tasks_per_node",
                       j->tasks_per_node, f->cpus, f->partition, p->cpus);
    if ((double)f->memory > p->mib * MIB)
        return err_set(ERR_RANGE,
                       "%d ranks of %.0f MiB take %.0f MiB on a node, but the largest of partition '%s' has %.0f MiB: lower job.tasks_per_node, %s, "
                       "or choose another job.partition",
                       j->tasks_per_node, n->bytes / MIB, (double)f->memory / MIB, f->partition, p->mib, what);
    if (p->fitting < j->nodes)
        return err_set(ERR_RANGE, "only %d nodes of partition '%s' have the cores, GPUs and memory, and %d are wanted: lower job.nodes", p->fitting,
                       f->partition, j->nodes);
    if (p->limit >= 0 && j->time[0] && f->seconds > p->limit)
        return err_set(ERR_RANGE, "job.time=%s is more than the limit of partition '%s', %lld minutes: a run goes on in a new job at its limit, "
                       "so ask for less", j->time, f->partition, (long long)p->limit / 60);
    if (p->limit >= 0 && f->seconds > p->limit)
        f->seconds = p->limit;
    if (f->seconds >= 0 && f->estimate > (double)f->seconds && !j->requeue)
        return err_set(ERR_RANGE, "the work takes about %.1f h, but the limit is %.1f h and job.requeue is off: raise job.time, job.nodes or job.shards",
                       f->estimate / 3600, (double)f->seconds / 3600);
    return 0;
}

static int basics(JobFit *f, const JobConf *j, const JobNeed *n)
{
    int64_t ranks = (int64_t)j->nodes * j->tasks_per_node;
    if (j->shards && !n->sweep)
        return err_set(ERR_RANGE, "job.shards: only a sweep has shards");
    if (j->shards > n->images)
        return err_set(ERR_RANGE, "job.shards=%d, but the sweep has %lld images", j->shards, (long long)n->images);
    if (j->launcher == JOB_NONE && ranks > 1)
        return err_set(ERR_RANGE, "job.launcher=none starts one process, not %lld", (long long)ranks);
    if (j->gpu_memory && n->bytes > (double)j->gpu_memory && !n->cpu)
        return err_set(ERR_RANGE, "a rank takes %.0f MiB, a GPU has %.0f MiB: lower %s", n->bytes / MIB, (double)j->gpu_memory / MIB,
                       n->sweep ? "batch or size, or set dtype=bf16" : "micro_batch or resolution, set gradient_checkpointing=true or dtype=bf16");
    f->memory = j->memory ? j->memory : (int64_t)(n->bytes * MEMORY_SHARE * j->tasks_per_node) + MEMORY_SPARE;
    f->estimate = n->flops / (n->rate * (double)ranks * (j->shards ? j->shards : 1));
    f->seconds = ((int64_t)(f->estimate * TIME_SHARE) + TIME_START + 299) / 300 * 300;
    if (j->time[0])
        TRY(job_time_parse(j->time, &f->seconds));
    if (f->seconds >= 0 && f->seconds <= j->warning)
        return err_set(ERR_RANGE, "job.time=%s is not longer than job.warning, %d seconds", j->time, j->warning);
    return 0;
}

int job_fit_nodes(JobFit *f, const JobConf *j, const JobNeed *n, char *sinfo)
{
    Partition p = {.limit = -1};
    memset(f, 0, sizeof *f);
    TRY(basics(f, j, n));
    TRY(survey(&p, f, j, sinfo));
    if (!p.found)
        return err_set(ERR_NOTFOUND, j->partition[0] ? "partition '%s' is not there; sinfo lists them" : "no default partition%s; set job.partition",
                       j->partition);
    f->gpus = gpus_of(j, n, p.gpus);
    f->cpus = j->cpus_per_task ? j->cpus_per_task : p.cpus / j->tasks_per_node > 0 ? p.cpus / j->tasks_per_node : 1;
    p = (Partition){.limit = -1};
    TRY(survey(&p, f, j, sinfo)); /* once more, now that cores and GPUs are known */
    return compare(&p, f, j, n);
}

int job_fit(JobFit *f, const JobConf *j, const JobNeed *n, int offline)
{
    static const char *const argv[] = {"sinfo", "-h", "-N", "-o", "%P|%t|%c|%m|%G|%l|%N", NULL};
    StrBuf b;
    int code = 0, rc;
    if (offline) {
        memset(f, 0, sizeof *f);
        snprintf(f->partition, sizeof f->partition, "%s", j->partition);
        f->gpus = gpus_of(j, n, 1);
        f->cpus = j->cpus_per_task ? j->cpus_per_task : 1;
        return basics(f, j, n);
    }
    str_init(&b);
    TRY_GOTO(process_capture(argv, &b, 1, &code));
    if (code == 127)
        rc = err_set(ERR_NOTFOUND, "sinfo is not installed: this is no Slurm cluster; --dry-run --offline prints the script without asking it");
    else if (code)
        rc = err_set(ERR_IO, "sinfo: %.*s", (int)strcspn(b.data, "\n"), b.data);
    else
        rc = job_fit_nodes(f, j, n, b.data);
done:
    str_deinit(&b);
    return rc;
}
