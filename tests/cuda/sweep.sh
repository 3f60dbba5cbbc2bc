#!/usr/bin/env bash
# A sweep on the emulated device: the same bytes on one rank and on two with a device each, in another batch; the whole UNet trained for a
# step. ATELIER_EMU names the program.
cd "$(dirname "$0")/../.." || exit 1
. tests/train/lib.sh
BIN=$(realpath "${ATELIER_EMU:-build/release/emu/atelier}") || exit 1
export EMU_DEVICES=2
cat >"$TMP/sweep.yaml" <<EOF
model: $MODEL
output: $TMP/one
device: cuda
dtype: bf16
steps: 1
prompt: a red fox
guidance: 1
size: [16, 24]
sampler: euler_a
latents: true
axes:
  seed: {count: 3}
EOF
check "sweep: one rank, images one by one" "$BIN" sweep "$TMP/sweep.yaml" batch=1
check "sweep: two ranks on two devices, batches of two" mpirun -np 2 "$BIN" sweep "$TMP/sweep.yaml" batch=2 output="$TMP/two"
set_of() { h5dump -d "$1" "$2/run.h5" | tail -n +2; }
same_set() { [ "$(set_of "$1" "$TMP/one" | wc -l)" -gt 8 ] && cmp <(set_of "$1" "$TMP/one") <(set_of "$1" "$TMP/two"); }
for d in images latents meta/pixels_sha256; do check "sweep: the same $d" same_set $d; done
check "sweep: three pictures" test "$(ls "$TMP"/one/png/*.png | wc -l)" -eq 3
check "sweep: the same pictures" diff -r "$TMP/one/png" "$TMP/two/png"
check "sweep: their records name the backend" sh -c "h5dump -d meta/record '$TMP/one/run.h5' | grep -q 'cuda'"

make_data
make_config "task: full" "steps: 1" "batch: 1" "micro_batch: 1" "checkpoint: {background: false}"
sed -i '/^lora:/d' "$TMP/train.yaml"
check "full: the whole UNet on the device" run full device=cuda
check "full: on the CPU" run fullcpu device=cpu
loss() { tail -n 1 "$TMP/$1/out/loss.csv" | cut -d, -f 2; }
near_loss() { awk -v a="$(loss full)" -v b="$(loss fullcpu)" 'BEGIN {d = a > b ? a - b : b - a; exit !(b > 0 && d <= 1e-4 * b)}'; }
check "full: the loss is the CPU's" near_loss
finish
