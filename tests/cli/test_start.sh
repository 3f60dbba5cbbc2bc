#!/usr/bin/env bash
# How the program starts: threads that wait spin shortly, unless the user chose how they wait; it stays the same process.
. tests/sweep/lib.sh
unset OMP_WAIT_POLICY GOMP_SPINCOUNT
spins() { OMP_DISPLAY_ENV=verbose "$A" info 2>&1 | sed -n "s/.*GOMP_SPINCOUNT = '\(.*\)'/\1/p" | tail -n 1; }
check spin__is_short test "$(spins)" = 3000
check spin__users_choice test "$(GOMP_SPINCOUNT=77 spins)" = 77
check spin__users_policy test "$(OMP_WAIT_POLICY=passive spins)" = 0
check start__arguments_stay bash -c "'$A' tokenize tests/vectors/sd15-tiny 'a  cat' | cmp - <(GOMP_SPINCOUNT=1 '$A' tokenize tests/vectors/sd15-tiny 'a  cat')"
sh -c 'echo $$ >"$1"; exec "$2" sweep "$3"' sh "$T/pid" "$A" <(config "$T/run" 400) >/dev/null 2>&1 &
while [ ! -d "$T/run" ] && kill -0 $! 2>/dev/null; do sleep 0.05; done
check start__same_process_and_name grep -qx atelier "/proc/$(cat "$T/pid")/comm"
kill -TERM $!
wait $!
check start__takes_the_signal test $? -eq 3
exit $((fails > 0))
