#!/usr/bin/env bash
# `atelier submit` and `atelier status` on a real Slurm: what they write runs and ends with the bytes of an undisturbed run; what cannot
# fit is refused before it is submitted.
. tests/train/lib.sh
. tests/slurm/cluster.sh
cluster_for submit
make_data
make_config "steps: 60" "checkpoint: {every: 5, keep: 3}"
straight calm
printf 'cpus_per_task: 1\nmemory: 500MiB\nscratch: %s\n' "$TMP/scratch" >"$TMP/cluster.yaml"
export ATELIER_CLUSTER=$TMP/cluster.yaml
submit() { # DIR ARGUMENT...: output in $TMP/DIR.out; $id: number of the first job
    local dir=$1
    mkdir -p "$TMP/$dir"
    (cd "$TMP/$dir" && "$BIN" submit "${@:2}") >"$TMP/$dir.out" 2>"$TMP/$dir.err"
    code=$?
    id=$(sed -n 's/.* job \([0-9]*\)$/\1/p' "$TMP/$dir.out" | head -n 1)
}
status() { (cd "$TMP/$1" && "$BIN" status "${@:2}"); }

submit two ../train.yaml job.nodes=2
[ -n "$id" ] && ok "submit: accepted" || not_ok "submit: accepted" "$(cat "$TMP/two.err")"
check "submit: says what it takes" grep -q "2 x 1 ranks of" "$TMP/two.err"
check "submit: ends" wait_state "${id:-0}" COMPLETED
check "submit: same bytes" cmp "$TMP/calm/out/lora.safetensors" "$TMP/two/out/lora.safetensors" # checkpoints hold the place of the cache
check "submit: two nodes, one GPU each" grep -q "2 tasks on 2 nodes" "$TMP"/two/out/slurm/*.log
check "submit: nothing stays in the scratch folder" test -z "$(ls "$TMP/scratch" 2>/dev/null)"
check "status: finished" grep -q "training, finished" <(status two out)
check "status: steps and loss" grep -qE "step 60 of 60 \(100.0 %\), loss [0-9.]+" <(status two out)
check "status: job that has ended" grep -qE "job $id +COMPLETED" <(status two out)
check "status: by the configuration" grep -q "step 60 of 60" <(status two ../train.yaml)

# Warned, back in the queue, and seen there.
run calm150 steps=150
submit back ../train.yaml steps=150 job.nodes=2
i=1200; while [ -z "$(last_checkpoint back)" ] && [ $((i -= 1)) -gt 0 ]; do sleep 0.1; done
out=$(cd "$TMP/back" && "$BIN" submit ../train.yaml steps=150 2>&1) && not_ok "refused: a second job for the same folder" "$out" ||
    check "refused: a second job for the same folder" grep -q "job $id of out is in the queue" <(echo "$out")
check "status: running" grep -qE "job $id +RUNNING" <(status back out)
scancel --signal=USR1 --batch "$id"
check "submit: ends after a warning" wait_state "$id" COMPLETED
check "submit: same bytes after a warning" cmp "$TMP/calm150/out/lora.safetensors" "$TMP/back/out/lora.safetensors" # checkpoints hold the place of the cache
check "submit: restart is logged" grep -q "restarts 1" "$TMP"/back/out/slurm/*.log

cat >"$TMP/sweep.yaml" <<E
model: $MODEL
output: run
steps: 2
size: [32, 24]
axes: {prompt: [a red fox, two cats], seed: {count: 6}}
E
(mkdir -p "$TMP/arr" && cd "$TMP/arr" && "$BIN" sweep ../sweep.yaml output=ref) >"$TMP/ref.log" 2>&1
submit arr ../sweep.yaml job.shards=4 job.parallel=2
join=$(sed -n 's/^join job //p' "$TMP/arr.out")
check "submit: shards and their join end" wait_state "${join:-0}" COMPLETED
pixels() { h5dump -d meta/pixels_sha256 "$1" | tail -n +2; }
check "submit: shards give the images of one run" cmp <(pixels "$TMP/arr/ref/run.h5") <(pixels "$TMP/arr/run/run.h5")
check "submit: four shards" test "$(ls "$TMP"/arr/run/slurm/atelier-sweep-*_*.log | wc -l)" -eq 4
check "status: sweep" grep -q "image 12 of 12" <(status arr run)

# What cannot fit never reaches the queue.
jobs_before=$(squeue -h -t all | wc -l)
no() { # NAME TEXT ARGUMENT...
    submit no "${@:3}"
    [ $code -eq 1 ] && grep -q -- "$2" "$TMP/no.err" && ok "refused: $1" || not_ok "refused: $1" "code $code: $(cat "$TMP/no.err")"
}
no memory "lower job.tasks_per_node" ../train.yaml job.memory=5GiB
no GPUs "GPUs on a node" ../train.yaml job.tasks_per_node=3
no cores "cores on a node" ../train.yaml job.cpus_per_task=5
no nodes "lower job.nodes" ../train.yaml job.nodes=4
no time "limit of partition" ../train.yaml job.time=3:00:00
no "work longer than the limit" "job.requeue is off" ../train.yaml steps=100000000 job.tflops=0.00001 job.requeue=false
no partition "partition 'nope' is not there" ../train.yaml job.partition=nope
no "shards of a training" "only a sweep" ../train.yaml job.shards=2
no "GPU memory" "lower micro_batch" ../train.yaml job.gpu_memory=1MiB
no "unknown key" "did you mean" ../train.yaml job.node=2
scontrol update NodeName=node3 State=DRAIN Reason=test
no "nodes that are out of order" "has 2 in order" ../train.yaml job.nodes=3
check "refused: nothing was submitted" test "$(squeue -h -t all | wc -l)" -eq "$jobs_before"
submit dry --dry-run ../train.yaml job.nodes=2 "lora.rank=4"
check "submit --dry-run: a script" bash -n "$TMP/dry.out"
check "submit --dry-run: ends with job.sh as it is now" cmp <(tail -n 20 "$ROOT/slurm/job.sh") <(tail -n 20 "$TMP/dry.out")
check "submit --dry-run: submits nothing" test "$(squeue -h -t all | wc -l)" -eq "$jobs_before" -a ! -e "$TMP/dry/out"
(cd "$TMP/two" && PATH=$TMP/none "$BIN" submit ../train.yaml) >"$TMP/none.log" 2>&1
check "submit: no Slurm here" grep -q "sinfo is not installed" "$TMP/none.log"
finish
