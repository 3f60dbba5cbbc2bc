/* How a job is run on a cluster: the keys of `job.KEY=VALUE` on the command line and of a site's cluster.yaml. */
#ifndef CLI_JOB_CONF_H
#define CLI_JOB_CONF_H

#include "base/config.h"

typedef enum { JOB_SRUN, JOB_MPIRUN, JOB_NONE } JobLauncher;

typedef struct {
    char *name, *partition, *account, *qos, *constraint, *after;
    int32_t nodes, tasks_per_node, gpus_per_task, cpus_per_task;
    int64_t memory;     /* bytes per node; 0: from the plan */
    char *time;         /* "" : from the plan */
    int32_t shards, parallel;
    int32_t warning;    /* seconds */
    int requeue;
    int32_t restarts;
    int launcher;       /* JobLauncher */
    char *mpi, *setup, *scratch;
    ConfStrs options;   /* more of sbatch's */
    double tflops;      /* per task; 0: measured here */
    int64_t gpu_memory; /* bytes of one GPU; 0: not checked */
} JobConf;

extern const ConfTable job_conf_table;

/* "4:00:00", "2-12", "90" (minutes), "UNLIMITED": seconds, -1 for no limit. Formats of sbatch(1) --time. ERR_FORMAT. */
int job_time_parse(const char *text, int64_t *seconds);
/* D-HH:MM:SS */
void job_time_text(int64_t seconds, char out[32]);

/* What a run takes; per task (rank). */
typedef struct {
    int sweep;          /* else training */
    char *output;       /* owned */
    int cpu;            /* the configuration wants the CPU */
    int64_t images;
    double bytes;       /* peak */
    double flops;       /* of the whole run */
    double rate;        /* FLOP/s of a task */
} JobNeed;
int job_need(JobNeed *n, const JobConf *j, const char *config, const char *const *overrides, int count);
void job_need_deinit(JobNeed *n);

/* What sbatch is asked for, all filled in. */
typedef struct {
    int64_t memory, seconds; /* bytes of a node; time limit */
    double estimate;         /* seconds of the whole run on all tasks (of one shard, where there are several) */
    int cpus, gpus;          /* of a task */
    char partition[128];
} JobFit;
/* Fills in memory, time, cores and GPUs and compares with the partition as sinfo shows it; ERR_RANGE for what can never start.
 * offline: sinfo is not asked. */
int job_fit(JobFit *f, const JobConf *j, const JobNeed *n, int offline);
/* The same from the text of sinfo -h -N -o '%P|%t|%c|%m|%G|%l|%N'. */
int job_fit_nodes(JobFit *f, const JobConf *j, const JobNeed *n, char *sinfo);

/* A script for sbatch: join: the job that joins the shards. */
int job_script(StrBuf *out, const JobConf *j, const JobNeed *n, const JobFit *f, int join, const char *config, const char *const *overrides,
               int count);

#endif
