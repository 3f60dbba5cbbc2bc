#!/usr/bin/env bash
# memory: the planner recomputes as little as keeps a rank within the budget; the result is the same.
. tests/train/lib.sh
make_data
make_config "steps: 6" "resolution: 32" "micro_batch: 4"
straight free
plan() { (cd "$TMP/free" && "$BIN" plan ../train.yaml "$@") 2>&1; }
peak() { plan "$@" | awk '/^peak per rank/ {printf "%d", $4 * 1024}'; } # KiB
most=$(peak) least=$(peak gradient_checkpointing=true)
check "there is something to save" test "$least" -lt "$most"
for part in 25 50 75; do
    budget=$((least + (most - least) * part / 100 + 1))
    check "budget of $budget KiB is kept" test "$(peak memory=${budget}KiB)" -le $budget
    check "and used: not everything is recomputed" test "$(peak memory=${budget}KiB)" -gt "$least"
done
check "enough memory: nothing is recomputed" sh -c "$(printf '%q ' cd "$TMP/free") && $BIN plan ../train.yaml memory=$((most + 1))KiB | grep -q ' 0 of '"
plan memory=100KiB >"$TMP/small.log"
check "too little is refused with the least possible" grep -Eq "^atelier: .*memory 0.1 MiB.* needs [0-9.]+ MiB, the least possible" "$TMP/small.log"
need=$(grep -Eo "needs [0-9.]+" "$TMP/small.log" | awk '{printf "%d", $2 * 1024 + 60}')
check "and that much is enough" sh -c "cd $TMP/free && $BIN plan ../train.yaml memory=${need}KiB >/dev/null"
run tight memory="$(((least + most) / 2))KiB"
check "the log says what was chosen" grep -Eq "recomputed \([0-9.]+ % of the work\): unet" "$TMP/tight/log"
check "the adapter is the same" cmp "$TMP/free/out/lora.safetensors" "$TMP/tight/out/lora.safetensors"
finish
