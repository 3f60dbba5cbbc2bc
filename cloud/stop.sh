#!/bin/bash
# Runs mpirun (or another launcher) so that SIGTERM and SIGINT reach the ranks as SIGUSR1: they save and stop with code 3, where mpirun
# itself would end them at once.     cloud/stop.sh mpirun -np 16 atelier train my.yaml
"$@" &
run=$!
trap 'kill -USR1 "$run" 2>/dev/null' TERM INT USR1
while :; do
    wait "$run"
    code=$?
    kill -0 "$run" 2>/dev/null || break
done
wait "$run" 2>/dev/null
again=$?
[ $again = 127 ] || code=$again
exit "$code"
