#!/usr/bin/env bash
# The watchdog of training: a rank that is stopped, killed or held in a file is named, the others save and end, and a resume gives the same bytes.
. tests/train/lib.sh
make_data
make_config "steps: 60" "patience: 3"
straight whole

rank_pid() { # pid of rank $2 of the run whose mpirun is $1
    local p
    for p in $(pgrep -P "$1"); do
        tr '\0' '\n' <"/proc/$p/environ" 2>/dev/null | grep -qx "OMPI_COMM_WORLD_RANK=$2" && echo "$p"
    done
}
begin() { # NAME RANKS [OPTION OF MPIRUN...]: in the background until it has saved a checkpoint
    local name=$1 ranks=$2
    shift 2
    mkdir -p "$TMP/$name"
    (cd "$TMP/$name" && exec mpirun "$@" -np "$ranks" "$BIN" train ../train.yaml --resume auto) >>"$TMP/$name/log" 2>&1 </dev/null &
    pid=$!
    while [ -z "$(last_checkpoint "$name")" ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
}
ended() { # NAME SECONDS WHY: what all cases ask
    check "$1: the job ends within $2 s" test $((SECONDS - began)) -le "$2"
    check "$1: the rank is named, with the place where it is missed" grep -Eq "$3" "$TMP/$1/log"
    check "$1: it is said that the state is saved" grep -Eq "The state after step [0-9]+ is saved" "$TMP/$1/log"
    check "$1: and it is" test -n "$(last_checkpoint "$1")" -a \
        "$(last_checkpoint "$1")" = "$(printf 'step-%08d.h5' "$(grep -Eo 'The state after step [0-9]+' "$TMP/$1/log" | grep -Eo '[0-9]+')")"
    check "$1: no process stays" test -z "$(pgrep -f "$TMP/$1/")"
    [ -n "${alone:-}" ] || MPIRUN="mpirun -np 2" run "$1" --resume auto
}
for victim in 1 0; do
    name=stopped$victim
    begin $name 3
    began=$SECONDS
    kill -STOP "$(rank_pid $pid $victim)"
    wait $pid
    check "$name: exit code 1" test $? -eq 1
    ended $name 20 "rank $victim \(host [^ ]+\) was not heard of for 3 s and did not come to the (sum of gradients|end of the micro-batches|end) of step [0-9]+"
    [ -n "${alone:-}" ] || check "$name: --resume auto finishes with the same bytes" alike whole $name
    alone=1
done
alone=
# mpirun ends the others itself, but with --enable-recovery; srun lets them live.
for victim in 0 1; do
    name=killed$victim
    begin $name 3 --enable-recovery
    began=$SECONDS
    dead=$(rank_pid $pid $victim)
    kill -KILL "$dead"
    wait $pid
    ended $name 15 "rank $victim \(host [^ ]+\) is gone: its process $dead has ended; the others were at the "
    [ -n "${alone:-}" ] || check "$name: --resume auto finishes with the same bytes" alike whole $name
    alone=1
done

# The whole job suspended for longer than its patience, as a scheduler does.
begin suspended 3
ranks=$(for r in 0 1 2; do rank_pid $pid $r; done)
kill -STOP $ranks
sleep 5
kill -CONT $ranks
wait $pid
check "suspended: it goes on" test $? -eq 0
check "suspended: the same bytes" alike whole suspended

# An image that never comes: its rank is alive and stays away.
make_config "steps: 100000" "patience: 2" "task: vae" "lora: {}" "checkpoint: {every: 4}" "resume: true"
begin held 3
picture=$(ls "$TMP"/data/*.png | head -n 1)
mkfifo "$picture.new" && mv "$picture.new" "$picture"
began=$SECONDS
wait $pid
check "held: exit code 1" test $? -eq 1
alone=1
ended held 20 "rank [0-2] \(host [^ ]+\)( and 1 other)? did not arrive at the end of the micro-batches of step [0-9]+ within 2 s; [12] ranks? waits? there. It is alive, and was last at"

# None of them comes: all are alive and none waits for another.
rm "$TMP"/data/*
make_data
sed -i 's/^patience: .*/patience: 5/' "$TMP/train.yaml"
begin idle 3
for picture in "$TMP"/data/*.png; do mkfifo "$picture.new" && mv "$picture.new" "$picture"; done
began=$SECONDS
wait $pid
check "idle: exit code 1" test $? -eq 1
check "idle: the job ends within 50 s" test $((SECONDS - began)) -le 50
check "idle: it is said, with a rank and what it was about" grep -Eq \
    "no rank has moved for 15 s; the longest at rest is rank [0-2] \(host [^ ]+\), last seen on its way to the end of the micro-batches of step [0-9]+" "$TMP/idle/log"
check "idle: no process stays" test -z "$(pgrep -f "$TMP/idle/")"
finish
