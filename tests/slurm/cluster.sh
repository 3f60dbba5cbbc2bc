# A real Slurm on this machine for tests: munged, slurmctld and several slurmd that stand for nodes with two fake GPUs each.
# Everything is under $S; needs root. cluster_start N ... cluster_stop.

# cluster_for NAME: three nodes until the script ends; the script ends here, with a line that says why, where Slurm cannot be had.
cluster_for() {
    local f
    for f in slurmctld slurmd munged; do
        [ -x /usr/sbin/$f ] || { echo "skip $1: $f is not installed (make check-slurm installs it)"; exit 0; }
    done
    [ "$(id -u)" = 0 ] || { echo "skip $1: needs root"; exit 0; }
    S=$TMP/slurm
    trap 'cluster_stop; rm -rf "$TMP"' EXIT
    trap 'exit 1' TERM INT
    if ! cluster_start 3 >"$TMP/start.log" 2>&1; then
        not_ok "slurm starts" "$(cat "$TMP/start.log" "$S"/log/*.log 2>/dev/null | tail -n 20)"
        exit 1
    fi
}
cluster_start() {
    local n=${1:-3} host i port
    port=$(free_ports $((20000 + $$ % 1000 * 10)) $((n + 1)))
    host=$(hostname -s)
    mkdir -p "$S"/{state,log,run/munge,etc,dev,munge}
    chmod 755 "$S" "$S/run/munge"
    chmod 700 "$S/munge"
    head -c 1024 /dev/urandom >"$S/munge/key"
    chmod 400 "$S/munge/key"
    /usr/sbin/munged --force --key-file="$S/munge/key" --socket="$S/run/munge/sock" --pid-file="$S/run/munge/pid" --log-file="$S/munge/log" \
        --seed-file="$S/munge/seed" --num-threads=2 || return 1
    {
        cat <<C
ClusterName=t
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$S/run/munge/sock,cred_expire=5
CredType=cred/munge
StateSaveLocation=$S/state
SlurmdSpoolDir=$S/spool.%n
SlurmctldPidFile=$S/run/slurmctld.pid
SlurmdPidFile=$S/run/slurmd.%n.pid
SlurmctldLogFile=$S/log/slurmctld.log
SlurmdLogFile=$S/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=pmix
TmpFS=$S/tmp.%n
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=120
InactiveLimit=0
KillWait=10
MinJobAge=600
OverTimeLimit=0
MailProg=/bin/true
SlurmdParameters=config_overrides
C
        for i in $(seq 1 "$n"); do
            echo "NodeName=node$i NodeAddr=127.0.0.1 NodeHostname=$host Port=$((port + i)) CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=4000 Gres=gpu:2 State=UNKNOWN"
        done
        echo "PartitionName=gpu Nodes=node[1-$n] Default=YES MaxTime=2:00:00 State=UP OverSubscribe=NO PriorityTier=1 PreemptMode=REQUEUE GraceTime=120"
        echo "PartitionName=urgent Nodes=node[1-$n] MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=10 PreemptMode=OFF"
    } >"$S/etc/slurm.conf"
    for i in 0 1; do mknod "$S/dev/gpu$i" c 1 3 2>/dev/null || : >"$S/dev/gpu$i"; done # a container may forbid devices
    echo "NodeName=node[1-$n] Name=gpu File=$S/dev/gpu[0-1]" >"$S/etc/gres.conf"
    export SLURM_CONF=$S/etc/slurm.conf OMPI_MCA_btl=tcp,self # nodes that share /dev/shm would meet in it
    export OMPI_MCA_btl_tcp_if_include=127.0.0.1/8 OMPI_MCA_oob_tcp_if_include=127.0.0.1/8 # other networks come and go
    /usr/sbin/slurmctld -f "$SLURM_CONF" || return 1
    for i in $(seq 1 "$n"); do node_start "node$i" || return 1; done
    for i in $(seq 300); do
        [ "$(timeout 10 sinfo -h -N -p gpu -t idle -o %N 2>/dev/null | wc -l)" -eq "$n" ] && return 0
        sleep 0.2
    done
    sinfo
    return 1
}
node_start() {
    mkdir -p "$S/spool.$1" "$S/tmp.$1"
    /usr/sbin/slurmd -f "$SLURM_CONF" -N "$1"
}
# Seconds after which slurmctld takes a node that does not answer for dead.
cluster_patience() {
    sed -i "s/^SlurmdTimeout=.*/SlurmdTimeout=$1/" "$SLURM_CONF"
    scontrol reconfigure
}
# kill -9 of a node's daemons, then of all that they started: a daemon that saw its job die would report that.
node_kill() {
    local p parent daemons list=
    daemons=$(cat "$S/run/slurmd.$1.pid")
    for p in /proc/[0-9]*; do
        grep -qz "^SLURM_CONF=$SLURM_CONF\$" "$p/environ" 2>/dev/null && grep -qz "^SLURMD_NODENAME=$1\$" "$p/environ" || continue
        list="$list ${p#/proc/}"
        parent=$(awk '/^PPid:/ {print $2}' "$p/status")
        [ "$(cat "/proc/$parent/comm" 2>/dev/null)" = slurmstepd ] && daemons="$daemons $parent"
    done
    kill -9 $daemons $list 2>/dev/null
}
cluster_stop() {
    local p
    scancel --state=RUNNING,PENDING -u "$(id -un)" 2>/dev/null
    for p in "$S"/run/slurmd.*.pid; do
        p=${p##*/slurmd.}
        node_kill "${p%.pid}"
    done
    for p in $(pgrep -x slurmstepd); do # of a step that was just starting
        ! grep -qz "^SLURM_CONF=$SLURM_CONF\$" "/proc/$p/environ" 2>/dev/null || kill -9 "$p"
    done
    for p in $(cat "$S/run/slurmctld.pid" "$S/run/munge/pid" 2>/dev/null); do
        kill "$p" 2>/dev/null
        timeout 10 tail --pid="$p" -f /dev/null || kill -9 "$p" 2>/dev/null
    done
}
job_state() { scontrol -o show job "$1" 2>/dev/null | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p' | sort -u | tr '\n' ' '; }
job_field() { scontrol -o show job "$1" | sed -n "s/.* $2=\([^ ]*\).*/\1/p" | head -n 1; }
wait_state() { # JOB STATE: until it is in it, or will never be
    local i=1500 s
    while [ $((i -= 1)) -gt 0 ]; do
        s=$(job_state "$1")
        case $s in
        "$2 ") return 0 ;;
        COMPLETED\ | CANCELLED\ | FAILED\ | TIMEOUT\ | OUT_OF_MEMORY\ ) break ;;
        esac
        sleep 0.2
    done
    echo "job $1 is ${s:-gone}, not $2"
    return 1
}
