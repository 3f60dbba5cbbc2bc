#!/usr/bin/env bash
# What interrupts a run from outside or inside: a rank that dies, a signal to any rank, numbers that are not finite.
. tests/train/lib.sh
make_data
make_config "steps: 80"
straight whole

# pid of rank N of the run whose mpirun is $1
rank_pid() {
    local p
    for p in $(pgrep -P "$1"); do
        tr '\0' '\n' <"/proc/$p/environ" 2>/dev/null | grep -qx "OMPI_COMM_WORLD_RANK=$2" && echo "$p"
    done
}
begin() { # NAME RANKS: in the background until it has saved a checkpoint
    mkdir -p "$TMP/$1"
    local before
    before=$(last_checkpoint "$1")
    (cd "$TMP/$1" && exec mpirun -np "$2" "$BIN" train ../train.yaml --resume auto) >>"$TMP/$1/log" 2>&1 </dev/null &
    pid=$!
    while [ "$(last_checkpoint "$1")" = "$before" ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
}
for victim in 0 2; do
    begin dead$victim 3
    began=$SECONDS
    kill -KILL "$(rank_pid $pid $victim)"
    wait $pid
    code=$?
    check "rank $victim killed: exit code 137" test $code -eq 137
    check "rank $victim killed: the others end within 30 s" test $((SECONDS - began)) -le 30
    check "rank $victim killed: it is named" grep -Eq "process rank $victim .*signal 9" "$TMP/dead$victim/log"
    check "rank $victim killed: no process stays" test -z "$(pgrep -f "$TMP/dead$victim")"
    MPIRUN="mpirun -np 2" run dead$victim --resume auto
    check "rank $victim killed: --resume auto continues" grep -q "resumed at step" "$TMP/dead$victim/log"
    check "rank $victim killed: the same bytes" alike whole dead$victim
done
for signal in TERM USR1; do
    for rank in 0 1; do
        name=$signal$rank
        begin "$name" 2
        kill "-$signal" "$(rank_pid $pid $rank)"
        wait $pid
        code=$?
        check "$signal to rank $rank: exit code 3" test $code -eq 3
        check "$signal to rank $rank: all agree" grep -q "stopped by SIG$signal after step" "$TMP/$name/log"
    done
    run "$name" --resume auto
    check "$signal to one rank: the same bytes" alike whole "$name"
done

# A learning rate that ruins the weights: gradients stop being finite on all ranks at once.
make_config "steps: 40" "checkpoint: {every: 2}" "optimizer: {lr: 10, clip: 0, max_skips: 4}" "task: full" "lora: {}"
for n in 1 2; do
    MPIRUN="mpirun -np $n" run ruin$n
    check "not finite, $n ranks: refused in the end, with the tensor" grep -Eq "4 steps in a row have no finite gradient: .* first in '(unet|the loss)" "$TMP/ruin$n/log"
    check "not finite, $n ranks: each skipped step is reported" test "$(grep -c 'skipped:' "$TMP/ruin$n/log")" -ge 4
done
first() { grep -o "step [0-9]* skipped.*" "$TMP/$1/log" | head -n 1; }
check "not finite: the same step and tensor on 1 and 2 ranks" test -n "$(first ruin1)" -a "$(first ruin1)" = "$(first ruin2)"
finish
