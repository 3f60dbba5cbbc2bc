#!/usr/bin/env bash
# The scripts of slurm/ on a real Slurm: two nodes, preemption, cancelling, a dead node, arrays, dependent jobs. Every result is compared
# with an undisturbed run of one process. Skips where Slurm is not installed (make check-slurm installs it).
. tests/train/lib.sh
. tests/slurm/cluster.sh
cluster_for slurm
ok "slurm starts"
export ATELIER=$BIN ATELIER_SLURM=$ROOT/slurm SCRATCH=
make_data
STEPS=60
make_config "steps: $STEPS" "checkpoint: {every: 5, keep: 3}"
straight calm

# job NAME OPTION... -- ARGUMENT...: train.sbatch in $TMP/NAME; $id: its number
job() {
    local name=$1 options=()
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
    mkdir -p "$TMP/$name"
    id=$(cd "$TMP/$name" && sbatch --parsable --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --mem=500 --time=30 --output=log \
        ${options[@]+"${options[@]}"} "$ROOT/slurm/train.sbatch" ../train.yaml "${@:2}")
}
wait_checkpoint() { # NAME
    local i=1200
    while [ -z "$(last_checkpoint "$1")" ] && [ $((i -= 1)) -gt 0 ]; do sleep 0.1; done
    [ -n "$(last_checkpoint "$1")" ]
}
ended() { check "$1: ends" wait_state "${2:-$id}" COMPLETED; check "$1: same bytes" alike calm "$1"; }
restarted() { # NAME N
    check "$1: restart is logged" grep -q "restarts $2" "$TMP/$1/log"
    check "$1: resumed" grep -q "resumed at step" "$TMP/$1/log"
    check "$1: no temporary files stay" test -z "$(find "$TMP/$1/out" -name '*.tmp*')"
}

check "scripts: say what they lack" grep -q "2 ATELIER_SLURM must be" <(
    out=$(ATELIER_SLURM=$TMP/none SLURM_JOB_ID=1 SLURM_ARRAY_TASK_COUNT=1 SLURM_ARRAY_TASK_ID=0 bash slurm/array.sbatch x.yaml 2>/dev/null); echo $? $out)
mkdir -p "$TMP/two" && (cd "$TMP/two" && "$BIN" lock ../train.yaml >/dev/null) # what is read is the same on all nodes, or the job does not begin
job two -- --locked
two=$id
# Two ranks on a node: srun shows each its own GPU, mpirun both, of which the program takes one by the rank's place.
printf '#!/bin/bash\n[ "$1" != train ] || echo "$SLURMD_NODENAME $CUDA_VISIBLE_DEVICES" >>gpus\nexec "%s" "$@"\n' "$BIN" >"$TMP/gpus"
chmod +x "$TMP/gpus"
pairs="--ntasks-per-node=2 --export=ALL,ATELIER=$TMP/gpus"
# Warned before the program has begun: the first turn waits for that.
job early $pairs,SETUP='[ "${SLURM_RESTART_COUNT:-0}" != 0 ] || { touch began; until [ -e warned ]; do sleep 0.1; done; }'
early=$id
job pmpi $pairs,LAUNCHER=mpirun
ended two "$two"
check "two: two nodes" grep -q "2 tasks on 2 nodes" "$TMP/two/log"
check "two: both nodes report" test "$(grep -c '^  node[0-9]: ' "$TMP/two/log")" -eq 2
check "two: the libraries" grep -q "libraries .*MPI" "$TMP/two/log"
check "two: the fence that waits for all" grep -q "SLURM_PMIX_FENCE=tree" "$TMP/two/log"
check "two: one GPU for a task" grep -q 'GPUs .*\[[01]\]' "$TMP/two/log"

i=1200; until [ -e "$TMP/early/began" ] || [ $((i -= 1)) = 0 ]; do sleep 0.1; done
scancel --signal=USR1 --batch "$early"
i=1200; until grep -q "warned of the end" "$TMP/early/log" || [ $((i -= 1)) = 0 ]; do sleep 0.1; done
touch "$TMP/early/warned"
ended pmpi
check "pmpi: all GPUs of a node for its ranks" test "$(cut -d ' ' -f 2 "$TMP/pmpi/gpus" | tr '\n' ' ')" = "0,1 0,1 0,1 0,1 "
ended early "$early"
check "early: a GPU for each rank" test "$(sort -u "$TMP/early/gpus" | cut -d ' ' -f 2 | tr '\n' ' ')" = "0 1 0 1 "
check "early: restart is logged" grep -q "restarts 1" "$TMP/early/log"

# Ranks that end later than rank 0 (it waits until they are about to): srun kills them. $LATE says what SIGTERM does to them then: "-" ends
# them, "" does nothing, and SIGKILL follows.
cat >"$TMP/late" <<E
#!/bin/bash
trap : TERM USR1
"$BIN" "\$@"
code=\$?
[ "\$1" = train ] && [ \$code = 3 ] || exit \$code
turn=\${SLURM_RESTART_COUNT:-0}
if [ "\$SLURM_PROCID" != 0 ]; then
    trap "" USR1
    trap "\$LATE" TERM
    : >"late.\$turn.\$SLURM_PROCID"
    exec sleep 300
fi
for ((i = 1; i < SLURM_NTASKS; i++)); do until [ -e "late.\$turn.\$i" ]; do sleep 0.1; done; done
exit 3
E
chmod +x "$TMP/late"
# The warning before the time limit. While the job waits for its next turn, another one is cancelled.
job warned --export="ALL,ATELIER=$TMP/late,LATE="
wait_checkpoint warned
scancel --signal=USR1 --batch "$id"
warned=$id
# Cancelled: a clean checkpoint, and it stays cancelled.
job cancel
wait_checkpoint cancel
scancel "$id"
check "cancel: is cancelled" wait_state "$id" CANCELLED
sleep 1
check "cancel: saved on the way" grep -q "stopped by SIGTERM after step" "$TMP/cancel/log"
check "cancel: no temporary files stay" test -z "$(find "$TMP/cancel/out" -name '*.tmp*')"
check "cancel: does not come back" test "$(job_state "$id")" = "CANCELLED "
run cancel
check "cancel: continued elsewhere, same bytes" alike calm cancel

# Without --kill-on-bad-exit srun lets the others live when a rank dies or stops: the watchdog ends them, saved.
srun_rank() { # pid of rank N of the run in folder NAME
    local p
    for p in $(pgrep -f "$BIN train ../train.yaml"); do
        [ "$(readlink "/proc/$p/cwd")" = "$TMP/$1" ] && [ "$(readlink "/proc/$p/exe")" = "$BIN" ] && grep -qz "^SLURM_PROCID=$2$" "/proc/$p/environ" && echo "$p"
    done
}
for signal in KILL STOP; do
    name=srun$signal
    mkdir -p "$TMP/$name"
    (cd "$TMP/$name" && SLURM_PMIX_FENCE=tree exec srun --mpi=pmix --kill-on-bad-exit=0 --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --mem=500 --time=5 \
        "$BIN" train ../train.yaml patience=10) >"$TMP/$name/log" 2>&1 </dev/null &
    pid=$!
    wait_checkpoint $name
    began=$SECONDS
    kill -$signal "$(srun_rank $name 1)"
    wait $pid
    code=$?
    check "$name: srun fails within 100 s" test $code -ne 0 -a $((SECONDS - began)) -le 100
    check "$name: rank 1 is named, the state saved" grep -Eq "rank 1 \(host [^ ]+\) (is gone: its process|was not heard of).*The state after step [0-9]+ is saved" "$TMP/$name/log"
    check "$name: no process stays" test -z "$(srun_rank $name 0)$(srun_rank $name 1)"
    run $name
    check "$name: continued, same bytes" alike calm $name
done
ended warned "$warned"
restarted warned 1
check "warned: the late rank was killed" grep -q "train ended with code 137" "$TMP/warned/log"

# Preempted by a partition of higher priority; goes on when that job is done. The training is held, so that it cannot end before: Slurm
# lets it go (SIGCONT) right before it says SIGTERM.
job preempt --nodes=3 --export="ALL,ATELIER=$TMP/late,LATE=-"
wait_checkpoint preempt
kill -STOP "$(srun_rank preempt 1)"
urgent=$(sbatch --parsable -p urgent --nodes=3 --exclusive --mem=100 --output=/dev/null --wrap "sleep 1")
check "preempt: the urgent job runs" wait_state "$urgent" COMPLETED
ended preempt
restarted preempt 1
check "preempt: late ranks were killed" grep -q "train ended with code 143" "$TMP/preempt/log"

# A node dies. Told so, Slurm requeues the job.
revive() { for n in $(sinfo -h -N -t down -o %N | sort -u); do node_start "$n"; scontrol update NodeName="$n" State=RESUME; done 2>/dev/null; }
nodes() { scontrol show hostnames "$(job_field "$id" NodeList)"; }
job dead
wait_checkpoint dead
node=$(nodes | tail -n 1)
node_kill "$node"
scontrol update NodeName="$node" State=DOWN Reason="killed by a test"
ended dead
restarted dead 1
revive
# Left to itself it finds out after SlurmdTimeout. mpirun gives up before: then the script puts the job back into the queue.
job lost --export=ALL,LAUNCHER=mpirun
wait_checkpoint lost
node_kill "$(nodes | tail -n 1)"
i=1200; while ! grep -q "not all nodes answer" "$TMP/lost/log" && [ $((i -= 1)) -gt 0 ]; do sleep 0.1; done
check "lost: noticed by the script" test $i -gt 0
cluster_patience 12
ended lost
restarted lost '[1-9]'
revive
# The node of the script dies: only Slurm can know. Meanwhile the rest goes on.
job first
wait_checkpoint first
node=$(nodes | head -n 1)
node_kill "$node"

# Shards as an array, then the join; everything in one chain of jobs.
cat >"$TMP/sweep.yaml" <<E
model: $MODEL
output: run
steps: 2
size: [32, 24]
batch: 2
axes:
  prompt: [a red fox, two cats]
  seed: {count: 4}
  lora: [none, {name: mine, path: out/lora.safetensors}]
E
mkdir -p "$TMP/pipe"
sed 's|path: out|path: ../calm/out|' "$TMP/sweep.yaml" >"$TMP/ref.yaml"
(cd "$TMP/pipe" && "$BIN" sweep ../ref.yaml output=ref) >"$TMP/ref.log" 2>&1 || not_ok "sweep: reference" "$(tail -n 3 "$TMP/ref.log")"
(cd "$TMP/pipe" && SBATCH_OPTIONS="--cpus-per-task=1 --mem=500 --time=30 --exclude=$node" "$ROOT/slurm/pipeline.sh" ../train.yaml ../sweep.yaml 3) >"$TMP/pipe.log" 2>&1 ||
    not_ok "pipeline: submits" "$(cat "$TMP/pipe.log")"
last=$(sed -n 's/.*export \([0-9]*\)$/\1/p' "$TMP/pipe.log")
check "pipeline: ends" wait_state "${last:-0}" COMPLETED
check "pipeline: training, same bytes" alike calm pipe
check "pipeline: shards are joined" test -s "$TMP/pipe/run/run.h5" -a ! -e "$TMP/pipe/run/shards"
pixels() { h5dump -d meta/pixels_sha256 "$1" | tail -n +2; }
check "pipeline: same images as one run" cmp <(pixels "$TMP/pipe/ref/run.h5") <(pixels "$TMP/pipe/run/run.h5")
check "pipeline: reproduced by one process" grep -q "16 of 16\|16 images" <(cd "$TMP/pipe" && "$BIN" reproduce run/run.h5 2>&1)
check "pipeline: exported" test "$(find "$TMP/pipe/run/pictures" -name '*.png' | wc -l)" -eq 16
ended first
restarted first 1
finish
