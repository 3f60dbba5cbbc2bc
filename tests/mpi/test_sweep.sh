#!/usr/bin/env bash
# Sweeps on several ranks: the same bytes for any number of ranks, also when ranks are killed on the way; errors and exit codes.
. tests/sweep/lib.sh
export OMP_NUM_THREADS=1

config "$T/1" >"$T/c.yaml"
check sweep_mpi__one_rank "$A" sweep "$T/c.yaml"
for n in 2 4; do
    check "sweep_mpi__${n}_ranks" mpirun -np $n "$A" sweep "$T/c.yaml" output="$T/$n" batch=2
    check "sweep_mpi__${n}_ranks_are_the_same" same_images "$T/1" "$T/$n"
done

# One rank is killed: the run ends, and goes on with another number of ranks.
config "$T/k" 6 >"$T/k.yaml"
mpirun -np 2 "$A" sweep "$T/k.yaml" output="$T/k6" >"$T/k.log" 2>&1
check sweep_mpi__reference test -s "$T/k6/run.h5"
for n in 2 3 4; do
    count=$(stored "$T/k")
    mpirun -np $n "$A" sweep "$T/k.yaml" batch=1 >"$T/k.log" 2>&1 &
    pid=$!
    wait_for_image "$T/k" $pid "$count"
    victim=$(pgrep -P $pid | tail -n 1)
    [ -n "$victim" ] && kill -9 "$victim"
    if wait $pid; then echo "# np $n ended before it was killed"; fi
done
check sweep_mpi__resumes_after_killed_ranks mpirun -np 2 "$A" sweep "$T/k.yaml" batch=1
check sweep_mpi__killed_ranks_are_the_same same_images "$T/k6" "$T/k"
check sweep_mpi__leaves_no_parts clean_folder "$T/k"

# Where the launcher lets the others live, a killed rank does not end the sweep.
config "$T/d" 6 >"$T/d.yaml"
mpirun --enable-recovery -np 3 "$A" sweep "$T/d.yaml" batch=1 >"$T/d.log" 2>&1 &
pid=$!
wait_for_image "$T/d" $pid
victim=$(pgrep -P $pid | tail -n 1)
[ -n "$victim" ] && kill -9 "$victim"
timeout 120 tail --pid=$pid -f /dev/null || kill -9 $pid
wait $pid
echo "# mpirun ended with $?"
check sweep_mpi__goes_on_without_a_killed_rank grep -q "rank 2 was killed: its work goes to the others" "$T/d.log"
check sweep_mpi__without_a_killed_rank_is_the_same same_images "$T/k6" "$T/d"

# SIGUSR1 to mpirun reaches all ranks.
config "$T/s" 6 >"$T/s.yaml"
mpirun -np 2 "$A" sweep "$T/s.yaml" batch=1 >"$T/s.log" 2>&1 &
pid=$!
wait_for_image "$T/s" $pid
kill -USR1 $pid
wait $pid
rc=$?
if [ $rc -eq 3 ] && [ "$(grep -c 'atelier: .*stopped by SIGUSR1' "$T/s.log")" -eq 1 ]; then ok sweep_mpi__stops_on_signal
else bad sweep_mpi__stops_on_signal "exit $rc: $(cat "$T/s.log")"; fi
check sweep_mpi__continues "$A" sweep "$T/s.yaml"
check sweep_mpi__stopped_run_is_the_same same_images "$T/k6" "$T/s"

once() { # NAME CODE TEXT COMMAND...: as refused, and the message is printed once
    local name=$1 code=$2 text=$3 out rc
    shift 3
    out=$("$@" 2>&1)
    rc=$?
    if [ $rc -eq "$code" ] && [ "$(printf '%s' "$out" | grep -c "^atelier: .*$text")" -eq 1 ]; then ok "$name"
    else bad "$name" "exit $rc: $out"; fi
}
once sweep_mpi__bad_key 1 "stepz" mpirun -np 2 "$A" sweep "$T/c.yaml" stepz=4
once sweep_mpi__bad_model 1 "nowhere" mpirun -np 2 "$A" sweep "$T/c.yaml" model=tests/nowhere output="$T/x"
once sweep_mpi__other_configuration 1 "holds another sweep" mpirun -np 2 "$A" sweep "$T/c.yaml" steps=9
once sweep_mpi__usage 2 "configuration file" mpirun -np 2 "$A" sweep
exit $((fails > 0))
