#!/usr/bin/env bash
# Runs test programs (CMocka) and scripts (TAP: "ok NAME" / "not ok NAME" / "skip NAME") and ends with "N passed, N failed".
#   tests/run.sh [-j JOBS] [-n RANKS]... PROGRAM...     with -n: each program once per number of ranks under mpirun
# JOBS programs run at a time (1; TEST_JOBS overrules it); their results come in the order of the command line, with seconds and those of all cores.
# Output of failing programs is shown; all of it is in build/test-logs/.
set -u
export OMP_WAIT_POLICY=passive # spinning threads starve each other where ranks share cores
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_vader_single_copy_mechanism=none
jobs=1 ranks=()
while :; do
    case ${1:-} in
    -j) jobs=$2 ;;
    -n) ranks+=("$2") ;;
    *) break ;;
    esac
    shift 2
done
jobs=${TEST_JOBS:-$jobs}
logs=build/test-logs
mkdir -p "$logs"
pass=0 fail=0 skip=0
waiting=() # names whose results are still to be told
failed=()

log_of() { echo "$logs/$(echo "$1" | tr '/ ' '__').log"; }

start() { # NAME COMMAND...
    local name=$1 log
    shift
    log=$(log_of "$name")
    while [ "$(unfinished)" -ge "$jobs" ]; do finish_one; done
    rm -f "$log.end"
    {
        TIMEFORMAT='%0R %0U %0S'
        { time timeout "${TEST_TIMEOUT:-1200}" "$@" >"$log" 2>&1 </dev/null; } 2>"$log.time"
        echo "$? $(tail -n 1 "$log.time")" >"$log.tmp"
        mv "$log.tmp" "$log.end"
        rm "$log.time"
    } &
    waiting+=("$name")
}

unfinished() {
    local name n=0
    for name in "${waiting[@]}"; do [ -f "$(log_of "$name").end" ] || n=$((n + 1)); done
    echo $n
}

finish_one() { # waits for one and tells what can be told in order
    local name
    if [ "$(unfinished)" -gt 0 ]; then
        wait -n
        [ $? -ne 127 ] || for name in "${waiting[@]}"; do # nothing runs: what has no result was killed
            [ -f "$(log_of "$name").end" ] || echo 137 0 0 0 >"$(log_of "$name").end"
        done
    fi
    while [ ${#waiting[@]} -gt 0 ] && [ -f "$(log_of "${waiting[0]}").end" ]; do
        report "${waiting[0]}"
        waiting=("${waiting[@]:1}")
    done
}

report() { # NAME
    local name=$1 log ok bad skipped rc real user sys
    log=$(log_of "$name")
    read -r rc real user sys <"$log.end"
    rm "$log.end"
    ok=$(grep -cE '^(\[       OK \]|ok )' "$log")
    # CMocka names these once more at the end.
    bad=$(($(grep -E '^\[  FAILED  \] [A-Za-z_0-9]+$' "$log" | sort -u | wc -l) + $(grep -c '^not ok ' "$log")))
    skipped=$(($(grep -E '^\[  SKIPPED \] [A-Za-z_0-9]+$' "$log" | sort -u | wc -l) + $(grep -c '^skip ' "$log")))
    if [ "$rc" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    if [ "$rc" -eq 0 ] && [ "$ok" -eq 0 ] && [ "$skipped" -eq 0 ]; then bad=1; echo "no test ran" >>"$log"; fi
    pass=$((pass + ok)) fail=$((fail + bad)) skip=$((skip + skipped))
    if [ "$rc" -ne 0 ] || [ "$bad" -gt 0 ]; then
        failed+=("$name")
        printf 'FAIL  %-44s %d passed, %d failed (exit %d)\n' "$name" "$ok" "$bad" "$rc"
        grep -vE '^\[ RUN      \]|^\[       OK \]|^ok ' "$log" | tail -n 25 | sed 's/^/      | /'
    else
        printf 'ok    %-44s %3d passed%s  %ds, %ds\n' "$name" "$ok" "$([ "$skipped" -gt 0 ] && echo ", $skipped skipped")" "$real" $((user + sys))
    fi
}

for p in "$@"; do
    short=${p#build/*/}
    if [ ${#ranks[@]} -eq 0 ]; then
        case $p in *.sh) start "$short" bash "$p" ;; *) start "$short" "$p" ;; esac
    else
        for n in "${ranks[@]}"; do start "$short -np $n" mpirun -np "$n" "$p"; done
    fi
done
while [ ${#waiting[@]} -gt 0 ]; do finish_one; done
[ ${#failed[@]} -gt 0 ] && printf 'failed: %s\n' "${failed[@]}"
if [ -n "${TEST_TALLY:-}" ]; then echo "$pass $fail $skip" >>"$TEST_TALLY"; fi
if [ $skip -gt 0 ]; then echo "$pass passed, $fail failed, $skip skipped"; else echo "$pass passed, $fail failed"; fi
[ $fail -eq 0 ]
