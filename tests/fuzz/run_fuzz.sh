#!/usr/bin/env bash
# Every fuzz program of build/asan on its corpus, FUZZ_SECONDS each. TAP lines.
set -u
rc=0
for program in build/asan/tests/fuzz/fuzz_*; do
    case $program in *.d) continue ;; esac
    name=$(basename "$program")
    corpus=tests/fuzz/corpus/${name#fuzz_}
    if [ ! -d "$corpus" ]; then
        echo "not ok $name: no $corpus"
        rc=1
    elif (cd build && "../$program" -seconds "${FUZZ_SECONDS:-3}" "../$corpus") 2>&1; then
        echo "ok $name"
    else
        echo "not ok $name"
        rc=1
    fi
done
exit $rc
