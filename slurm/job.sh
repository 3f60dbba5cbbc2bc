# What every job does; the .sbatch files beside this one read it, `atelier submit` puts it into the scripts it writes.
# Set before: ATELIER COMMAND CONFIG OVERRIDES LAUNCHER MPI SETUP SCRATCH MAX_RESTARTS.
set -u
job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
say() { printf '%s job %s: %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$job" "$*"; }
warned= pid=
on_warning() {
    warned=1
    say "warned of the end: saving"
    [ -z "$pid" ] || kill -USR1 "$pid" 2>/dev/null
}
trap on_warning USR1
eval "$SETUP"
# Slurm has two ways to let ranks of several nodes wait for each other. MPI_Init waits twice; with one way each, the default, some ranks may
# go on before others are ready, and those crash.
export SLURM_PMIX_FENCE=${SLURM_PMIX_FENCE:-tree}
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} OMP_PROC_BIND=${OMP_PROC_BIND:-false}

# Once on every node, with all the GPUs that the job has there.
on_nodes() { # COMMAND...
    timeout 60 env -u SLURM_GPUS_PER_TASK -u SLURM_TRES_PER_TASK srun --overlap --mpi=none -N "${SLURM_JOB_NUM_NODES:-1}" \
        -n "${SLURM_JOB_NUM_NODES:-1}" --ntasks-per-node=1 ${SLURM_GPUS_ON_NODE:+--gpus-per-node=$SLURM_GPUS_ON_NODE} "$@"
}

# ---- what ran where: the first lines of every log ----
node_report() {
    local gpus nics
    gpus=$(command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null | sort | uniq -c | tr '\n' ';')
    nics=$(for d in /sys/class/infiniband/* /sys/class/net/*; do
        [ -e "$d" ] && [ "${d##*/}" != lo ] && printf '%s(%s) ' "${d##*/}" "$(cat "$d/speed" "$d"/ports/1/rate 2>/dev/null | head -n 1)"
    done)
    printf '%s: %s cores, %s MiB, GPUs %s [%s], network %s, kernel %s\n' "${SLURMD_NODENAME:-$(hostname)}" "$(nproc)" \
        "$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)" "${gpus:-none}" "${CUDA_VISIBLE_DEVICES:-}" "${nics:-none}" "$(uname -r)"
}
report() {
    say "start on ${SLURM_JOB_NODELIST:-?}: ${SLURM_NTASKS:-1} tasks on ${SLURM_JOB_NUM_NODES:-1} nodes, ${SLURM_CPUS_PER_TASK:-1} cores each," \
        "restarts ${SLURM_RESTART_COUNT:-0}, partition ${SLURM_JOB_PARTITION:-?}"
    export -f node_report
    on_nodes bash -c node_report 2>&1 | sed 's/^/  /'
    srun --version | sed 's/^/  /'
    env -u SLURM_JOB_ID "$ATELIER" info 2>&1 | sed 's/^/  /'
    env | grep -E '^(NCCL|UCX|OMPI_MCA|OMP|HDF5|SLURM_PMIX)_' | sort | sed 's/^/  /'
}

# ---- node-local scratch: files that may be lost ----
# Training keeps its caches there, one of all rows on each node.
scratch_open() {
    scratch=
    [ -n "$SCRATCH" ] || return 0
    scratch=$SCRATCH/atelier-$job
    on_nodes mkdir -p "$scratch" ||
        { scratch=; say "no scratch in $SCRATCH"; return 0; }
    export TMPDIR=$scratch CUDA_CACHE_PATH=$scratch/cuda
    if [ "$COMMAND" = train ]; then OVERRIDES+=("cache=$scratch/cache" cache_scope=node); fi
}
scratch_close() {
    [ -z "$scratch" ] || on_nodes rm -rf "$scratch"
}

# ---- the run: a warning stops it with all work saved, and the job goes back to the queue ----
launch() {
    case $LAUNCHER in
    srun)
        local stop=--kill-on-bad-exit=1
        [ "$COMMAND" = sweep ] && stop=--kill-on-bad-exit=0 # the other ranks do the work of one that dies
        exec srun --mpi="$MPI" $stop ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} "$@"
        ;;
    mpirun)
        unset SLURM_GPUS_PER_TASK SLURM_TRES_PER_TASK # mpirun's daemon is one task: a node's ranks would get one GPU among them
        [ -z "${SLURM_GPUS_ON_NODE:-}" ] || export SLURM_GPUS_PER_NODE=$SLURM_GPUS_ON_NODE
        exec mpirun -np "$SLURM_NTASKS" --bind-to none "$@"
        ;;
    none) exec "$@" ;;
    *) say "LAUNCHER=$LAUNCHER: expected srun, mpirun or none"; exit 2 ;;
    esac
}
run() {
    code=3
    [ -z "$warned" ] || return 0 # before it began
    launch "$@" &
    pid=$!
    trap 'kill -TERM "$pid" 2>/dev/null' TERM
    while :; do
        wait "$pid"
        code=$?
        kill -0 "$pid" 2>/dev/null || break
    done
    wait "$pid" 2>/dev/null # the real code, where a trap cut the wait above short
    local last=$?
    [ $last = 127 ] || code=$last
}
# A run that stopped because the scheduler takes the nodes away (and not because somebody cancelled it).
job_shows() { # PATTERN
    case $(scontrol -o show job "$job" 2>/dev/null) in *JobState=RUNNING*$1*) return 0 ;; *) return 1 ;; esac
}
preempted() { job_shows PreemptTime= && ! job_shows PreemptTime=None; }
# A node died under the run, and Slurm itself has not noticed yet.
node_lost() {
    [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ] && ! on_nodes true 2>/dev/null && job_shows "" && say "not all nodes answer"
}
# Whether to go on in another turn. A rank that is a little later than the others to end with code 3 is killed by srun: 137, 143; one that
# has only just started, by the warning itself: 138.
again() {
    case $code in
    0) return 1 ;;
    3 | 137 | 138 | 143) [ -n "$warned" ] || preempted || node_lost ;;
    *) node_lost ;;
    esac
}

report
scratch_open
run "$ATELIER" "$COMMAND" "$CONFIG" ${OVERRIDES[@]+"${OVERRIDES[@]}"}
say "$COMMAND ended with code $code"
scratch_close
if again; then
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "$MAX_RESTARTS" ]; then
        say "restarted ${SLURM_RESTART_COUNT:-0} times already: giving up; submit again to continue"
        exit $code
    fi
    say "back to the queue"
    scontrol requeue "$job" && exit 0
    say "could not be requeued; submit again to continue"
fi
exit $code
