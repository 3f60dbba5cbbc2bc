#!/usr/bin/env bash
# Every barrier of the attention, convolution, low-rank, norm and optimizer kernels is needed: without it some check fails. MUTATE names the program,
# built with ThreadSanitizer.
cd "$(dirname "$0")/../.." || exit 1
export TSAN_OPTIONS="halt_on_error=1 ${TSAN_OPTIONS:-}"
families="attention conv linear norm optim"
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT

each_barrier() { # FAMILY
    local n site
    if ! "$MUTATE" "$1" -1 >"$tmp/$1.log" 2>&1; then
        echo "not ok mutate: $1 with all barriers"
        tail -n 5 "$tmp/$1.log" | sed 's/^/# /'
        return
    fi
    echo "ok mutate: $1 with all barriers"
    while read -r _ n site; do
        if "$MUTATE" "$1" "$n" >/dev/null 2>&1 </dev/null; then
            echo "not ok mutate: $1 without the barrier at $site fails nothing"
        else
            echo "ok mutate: $1 needs the barrier at $site"
        fi
    done < <(grep '^barrier ' "$tmp/$1.log")
}
for family in $families; do
    [ "$(jobs -r | wc -l)" -lt "$(nproc)" ] || wait -n
    each_barrier $family >"$tmp/$family" &
done
wait
for family in $families; do cat "$tmp/$family"; done | tee "$tmp/all"
! grep -q '^not ok' "$tmp/all"
