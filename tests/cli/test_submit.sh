#!/usr/bin/env bash
# `atelier submit` and `status` against stand-ins of sinfo, sbatch, squeue and sacct: what is read from them, what is refused, the script.
. tests/sweep/lib.sh
A=$(realpath "$A")
mkdir -p "$T/bin"
export PATH=$T/bin:$PATH STUB=$T/stub ATELIER_CLUSTER=
mkdir -p "$STUB"
for p in sinfo sbatch squeue sacct scontrol; do
    printf '#!/bin/sh\necho "$@" >>%s/%s.args\n[ -f %s/%s.out ] || exit 1\ncat %s/%s.out\nexit $(cat %s/%s.code 2>/dev/null || echo 0)\n' \
        "$STUB" $p "$STUB" $p "$STUB" $p "$STUB" $p >"$T/bin/$p"
    chmod +x "$T/bin/$p"
done
cat >"$STUB/sinfo.out" <<'EOF2'
cpu*|idle|8|16000|(null)|1-00:00:00|c1
cpu*|mix|8|16000|(null)|1-00:00:00|c2
cpu*|down*|64|900000|(null)|1-00:00:00|c3
cpu*|drain|64|900000|(null)|1-00:00:00|c4
gpu|alloc|64|512000|gpu:a100:4(S:0-1),shard:8|2:00:00|g1
gpu|idle|64|512000|gpu:a100:4(S:0-1)|2:00:00|g2
gpu|idle*|64|512000|gpu:a100:8|2:00:00|g3
tiny|idle|1|900|gpu:2,gpu:h100:1|infinite|t1
garbage
|||||
EOF2
echo "4711;cluster" >"$STUB/sbatch.out"
config "$T/out" >"$T/c.yaml"
dry() { "$A" submit --dry-run "$T/c.yaml" "$@" 2>&1; }

check submit__cpu_partition_takes_no_gpu test -z "$(dry | grep gpus-per-task)"
check submit__default_partition grep -q -- "--partition=cpu" <(dry)
check submit__cores_are_shared grep -q -- "--cpus-per-task=4" <(dry job.tasks_per_node=2)
check submit__gpu_partition_gives_one_each grep -q -- "--gpus-per-task=1" <(dry job.partition=gpu)
check submit__device_cpu_takes_none test -z "$(dry job.partition=gpu device=cpu | grep gpus-per-task)"
check submit__limit_of_the_partition grep -q -- "--time=0-02:00:00" <(dry job.partition=gpu job.tflops=0.00000001)
check submit__given_time grep -q -- "--time=1-06:30:00" <(dry job.partition=tiny job.memory=800MiB job.time=1-6:30)
check submit__minutes grep -q -- "--time=0-01:30:00" <(dry job.time=90)
check submit__array grep -q -- "--array=0-5%2" <(dry job.shards=6 job.parallel=2)
check submit__requeue grep -q -- "--signal=B:USR1@60" <(dry job.warning=60)
check submit__no_requeue grep -q -- "--no-requeue" <(dry job.requeue=false)
check submit__more_options grep -q -- "^#SBATCH --reservation=art" <(dry "job.options=[--reservation=art]")
check submit__quotes grep -qF "'axes.prompt=[it'\\''s]'" <(dry "axes.prompt=[it's]")
check submit__scripts_are_bash bash -n <(dry "axes.prompt=[it's]" 2>/dev/null | grep -v "images, ")

refused submit__gpus_of_two_kinds 1 "have 3" "$A" submit "$T/c.yaml" job.partition=tiny job.gpus_per_task=4
refused submit__down_nodes_do_not_count 1 "has 2 in order" "$A" submit "$T/c.yaml" job.nodes=3
refused submit__nodes_that_do_not_answer 1 "have 4" "$A" submit "$T/c.yaml" job.partition=gpu job.tasks_per_node=5
refused submit__memory 1 "lower job.tasks_per_node" "$A" submit "$T/c.yaml" job.partition=tiny job.gpus_per_task=0
refused submit__no_partition 1 "partition 'x' is not there" "$A" submit "$T/c.yaml" job.partition=x
refused submit__bad_time 1 "HH:MM:SS" "$A" submit "$T/c.yaml" job.time=soon
refused submit__warning_is_longer 1 "job.warning" "$A" submit "$T/c.yaml" job.time=1
refused submit__more_shards_than_images 1 "24 images" "$A" submit "$T/c.yaml" job.shards=25
refused submit__one_process 1 "starts one process" "$A" submit "$T/c.yaml" job.launcher=none job.nodes=2
refused submit__bad_key 1 "partition" "$A" submit "$T/c.yaml" job.partitoin=gpu
refused submit__usage 2 "a configuration file" "$A" submit
refused submit__offline 2 "for --dry-run" "$A" submit --offline "$T/c.yaml"
check submit__refused_before_sbatch test ! -e "$STUB/sbatch.args"

check submit__submits grep -qx "sweep job 4711" <("$A" submit "$T/c.yaml")
check submit__script_is_kept grep -q "sbatch --parsable\|$T/out/slurm/sweep.sbatch" "$STUB/sbatch.args"
check submit__join_waits grep -q -- "--dependency=afterany:4711" <("$A" submit "$T/c.yaml" job.shards=2 >/dev/null; cat "$STUB/sbatch.args")
echo "sbatch: error: invalid account" >"$STUB/sbatch.out"; echo 1 >"$STUB/sbatch.code"
refused submit__what_sbatch_says 1 "invalid account" "$A" submit "$T/c.yaml"

printf '4711|4711|RUNNING|1:02|2:00:00|2|atelier-sweep|n[1-2]\n9|9|PENDING|0:00|UNLIMITED|1|other|(Priority)\n' >"$STUB/squeue.out"
"$A" sweep "$T/c.yaml" --shard 0/2 >/dev/null 2>&1
check status__queue grep -q "job 4711 .*RUNNING .*1:02 of 2:00:00 on 2 nodes" <("$A" status "$T/c.yaml")
check status__images grep -q "image 12 of 24 (50.0 %), in 1 shards" <("$A" status "$T/out")
check status__all_jobs grep -q "job 9 " <("$A" status)
: >"$STUB/squeue.out"
echo "COMPLETED|00:05:00|0:0" >"$STUB/sacct.out"
check status__accounting grep -q "job 4711 .*COMPLETED .*ran 00:05:00, exit code 0:0" <("$A" status "$T/out")
rm "$STUB/sacct.out"
check status__no_accounting grep -q "job 4711 .*ended" <("$A" status "$T/out")
rm "$STUB/squeue.out"
refused status__no_slurm 1 "squeue does not answer" "$A" status
check status__without_slurm grep -q "image 12 of 24" <("$A" status "$T/out")
"$A" sweep "$T/c.yaml" >/dev/null 2>&1
check status__finished grep -q "sweep, finished" <("$A" status "$T/out")
mkdir -p "$T/empty"
check status__nothing_yet grep -q "nothing has run" <("$A" status "$T/empty")
exit $((fails > 0))
