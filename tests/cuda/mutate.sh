#!/usr/bin/env bash
# Every barrier of the attention, convolution, low-rank, norm and optimizer kernels is needed: without it some check fails. MUTATE names the program,
# built with ThreadSanitizer.
cd "$(dirname "$0")/../.." || exit 1
export TSAN_OPTIONS="halt_on_error=1 ${TSAN_OPTIONS:-}"
bad=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for family in attention conv linear norm optim; do
    if ! "$MUTATE" $family -1 >"$log" 2>&1; then
        echo "not ok mutate: $family with all barriers"
        tail -n 5 "$log" | sed 's/^/# /'
        bad=1
        continue
    fi
    echo "ok mutate: $family with all barriers"
    while read -r _ n site; do
        if "$MUTATE" $family "$n" >/dev/null 2>&1 </dev/null; then
            echo "not ok mutate: $family without the barrier at $site fails nothing"
            bad=1
        else
            echo "ok mutate: $family needs the barrier at $site"
        fi
    done < <(grep '^barrier ' "$log")
done
exit $bad
