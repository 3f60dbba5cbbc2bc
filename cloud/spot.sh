#!/bin/bash
# A run on machines that may be taken away: fetches what is stored, runs, stores what is finished all the while, and at SIGTERM (the
# provider's warning, usually two minutes or thirty seconds before the end) saves and stores the rest. The same command on new machines
# goes on.
#     cloud/spot.sh s3://BUCKET/PREFIX OUTPUT -- mpirun --hostfile hosts atelier train my.yaml
# Run it on the machine of rank 0, where OUTPUT is. Exit codes: 0 done and stored; 3 stopped, all stored: start again elsewhere; else error.
set -u
ATELIER=${ATELIER:-atelier}
place=${1:?s3://BUCKET/PREFIX} output=${2:?OUTPUT}
[ "${3:-}" = -- ] || { echo "spot: expected -- before the command" >&2; exit 2; }
shift 3
"$ATELIER" fetch "$place" "$output" || { echo "spot: nothing was started: what is stored could not be fetched" >&2; exit 1; }
"$@" &
run=$!
# mpirun passes SIGUSR1 on to all ranks; SIGTERM would end them at once.
stop() { kill -USR1 "$run" 2>/dev/null; }
trap stop TERM INT USR1
# setsid: a signal to the whole group must not reach the upload.
setsid "$ATELIER" push --follow "$run" --every "${EVERY:-10}" "$output" "$place" &
push=$!
# A cloud's own notice, where it has one: a command that succeeds when the machine is about to go, asked every five seconds. For example
#   NOTICE='curl -sf http://169.254.169.254/latest/meta-data/spot/instance-action'                                       (AWS)
#   NOTICE='curl -s -H Metadata-Flavor:Google http://metadata.google.internal/computeMetadata/v1/instance/preempted | grep -q TRUE'  (GCP)
if [ -n "${NOTICE:-}" ]; then
    (while kill -0 "$run" 2>/dev/null; do
        if bash -c "$NOTICE" >/dev/null 2>&1; then kill -USR1 "$run"; break; fi
        sleep 5
    done) &
    watch=$!
fi
last() { # of PID: its exit code, whatever interrupts the wait
    local code
    while :; do
        wait "$1"
        code=$?
        kill -0 "$1" 2>/dev/null || break
    done
    wait "$1" 2>/dev/null
    local again=$?
    [ $again = 127 ] || code=$again
    return $code
}
last "$run"
code=$?
last "$push"
stored=$?
[ -z "${watch:-}" ] || kill "$watch" 2>/dev/null
[ $stored = 0 ] || { echo "spot: not everything is stored in $place: atelier push $output $place" >&2; [ $code = 0 ] && exit 1; }
exit $code
