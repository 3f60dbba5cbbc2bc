#!/usr/bin/env bash
# Runs test programs (CMocka) and scripts (TAP: "ok NAME" / "not ok NAME" / "skip NAME") and ends with "N passed, N failed".
#   tests/run.sh [-n RANKS]... PROGRAM...     with -n: each program once per number of ranks under mpirun
# Output of failing programs is shown; all of it is in build/test-logs/.
set -u
export OMP_WAIT_POLICY=passive # spinning threads starve each other where ranks share cores
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_vader_single_copy_mechanism=none
ranks=()
while [ "${1:-}" = -n ]; do ranks+=("$2"); shift 2; done
logs=build/test-logs
mkdir -p "$logs"
pass=0 fail=0 skip=0
failed=()

one() { # NAME COMMAND...
    local name=$1 log rc ok bad skipped start=$SECONDS
    shift
    log=$logs/$(echo "$name" | tr '/ ' '__').log
    timeout "${TEST_TIMEOUT:-600}" "$@" >"$log" 2>&1 </dev/null
    rc=$?
    ok=$(grep -cE '^(\[       OK \]|ok )' "$log")
    bad=$(grep -cE '^(\[  FAILED  \] [A-Za-z_0-9]+$|\[  ERROR   \] ---|not ok )' "$log")
    skipped=$(grep -cE '^(\[  SKIPPED \] [A-Za-z_0-9]+$|skip )' "$log")
    if [ $rc -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    if [ $rc -eq 0 ] && [ "$ok" -eq 0 ] && [ "$skipped" -eq 0 ]; then bad=1; echo "no test ran" >>"$log"; fi
    pass=$((pass + ok)) fail=$((fail + bad)) skip=$((skip + skipped))
    if [ $rc -ne 0 ] || [ "$bad" -gt 0 ]; then
        failed+=("$name")
        printf 'FAIL  %-44s %d passed, %d failed (exit %d)\n' "$name" "$ok" "$bad" "$rc"
        grep -vE '^\[ RUN      \]|^\[       OK \]|^ok ' "$log" | tail -n 25 | sed 's/^/      | /'
    else
        printf 'ok    %-44s %3d passed%s  %ds\n' "$name" "$ok" "$([ "$skipped" -gt 0 ] && echo ", $skipped skipped")" $((SECONDS - start))
    fi
}

for p in "$@"; do
    short=${p#build/*/}
    if [ ${#ranks[@]} -eq 0 ]; then
        case $p in *.sh) one "$short" bash "$p" ;; *) one "$short" "$p" ;; esac
    else
        for n in "${ranks[@]}"; do one "$short -np $n" mpirun -np "$n" "$p"; done
    fi
done
[ ${#failed[@]} -gt 0 ] && printf 'failed: %s\n' "${failed[@]}"
if [ -n "${TEST_TALLY:-}" ]; then echo "$pass $fail $skip" >>"$TEST_TALLY"; fi
if [ $skip -gt 0 ]; then echo "$pass passed, $fail failed, $skip skipped"; else echo "$pass passed, $fail failed"; fi
[ $fail -eq 0 ]
