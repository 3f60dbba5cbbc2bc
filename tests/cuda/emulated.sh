#!/usr/bin/env bash
# The whole program on the emulated device: images and training beside those of the CPU backend. ATELIER_EMU names the program.
cd "$(dirname "$0")/../.." || exit 1
. tests/train/lib.sh
EMU=$(realpath "${ATELIER_EMU:-build/release/emu/atelier}") || exit 1
make_data

# The pixels of both are the same, or their PSNR is at least DB.
near() { # A.png B.png DB
    "$EMU" diff "$1" "$2" >"$TMP/diff" || true
    grep -q '^backend: cpu' "$TMP/diff" || return 1 # they come from different backends
    grep -q '^pixels' "$TMP/diff" || return 0
    sed -n 's/.*PSNR \([0-9.]*\) dB.*/\1/p' "$TMP/diff" | awk -v least="$3" '{ok = $1 >= least} END {exit !ok}'
}
same_pixels() { "$EMU" diff "$1" "$2" >"$TMP/diff" || true; ! grep -q '^pixels' "$TMP/diff"; }
render() { # DEVICE DTYPE OUT
    "$EMU" sample "$MODEL" "a red fox" -o "$3" "device=$1" "dtype=$2" size=[32,24] steps=2 sampler=euler_a seed=5
}
for t in f32 bf16; do
    check "emulated: $t image on the CPU" render cpu $t "$TMP/cpu-$t.png"
    check "emulated: $t image on the device" render cuda $t "$TMP/cuda-$t.png"
    check "emulated: $t images are alike" near "$TMP/cpu-$t.png" "$TMP/cuda-$t.png" $([ $t = f32 ] && echo 60 || echo 30)
done
check "emulated: bf16 image without CUDA graphs" env ATELIER_CUDA_GRAPHS=off "$EMU" sample "$MODEL" "a red fox" -o "$TMP/single.png" \
    device=cuda dtype=bf16 size=[32,24] steps=2 sampler=euler_a seed=5
check "emulated: CUDA graphs change no pixel" same_pixels "$TMP/cuda-bf16.png" "$TMP/single.png"

# Large tensors have 8-bit moments, the others f32 ones; the values that are saved are averages.
BIN=$EMU
env_run() { # NAME=VALUE RUN...
    local -x "$1"
    shift
    run "$@"
}
export EMU_DEVICES=2
make_config "steps: 3" "batch: 2" "micro_batch: 1" "lora: {rank: 96}" "optimizer: {name: adamw8bit, lr: 2e-3, ema: 0.9}" \
    "checkpoint: {every: 1, keep: 3, background: false}"
check "emulated: training on one device" env_run ATELIER_LOG=3 one device=cuda
replayed() { sed -n 's/.*executor: \([0-9]*\) runs replayed, .*/\1/p' "$TMP/one/log" | grep -qx "$1"; }
check "emulated: all micro-batches but the first are replayed" replayed 5
check "emulated: all ops can be recorded" sh -c "! grep 'cannot be recorded' '$TMP/one/log'"
interrupt KILL two device=cuda
MPIRUN="mpirun -np 2"
check "emulated: after kill -9 training goes on, on two devices, without CUDA graphs" env_run ATELIER_CUDA_GRAPHS=off two device=cuda
unset MPIRUN
check "emulated: it was resumed" grep -q "resumed at step [12]" "$TMP/two/log"
check "emulated: neither the interruption nor the number of devices nor CUDA graphs change a byte" alike one two
check "emulated: training on the CPU" run host device=cpu
losses() { h5dump -d /loss "$(ls "$TMP/$1"/out/checkpoints/*.h5 | tail -1)" | grep -oE '\([0-9]+\): .*' | sed 's/([0-9]*)://' | tr -d ' ' | tr ',' '\n'; }
same_losses() {
    paste <(losses one) <(losses host) | awk '{d = $1 - $2; if (d < 0) d = -d; if (d > 1e-4 * ($2 > 0 ? $2 : -$2)) bad = 1; n++} END {exit bad || n < 3}'
}
check "emulated: losses as on the CPU" same_losses
if EMU_DEVICE_BYTES=40000000 run small device=cuda; then
    not_ok "emulated: what does not fit into the device's memory is refused"
else
    check "emulated: what does not fit into the device's memory is refused, with what to change" grep -qE \
        "^atelier: [0-9]+ MiB \(activations [0-9]+, parameters [0-9]+, optimizer [0-9]+\) do not fit into the [0-9]+ MiB of the device that are free, of [0-9]+: lower micro_batch" "$TMP/small/log"
fi
if (cd "$TMP/one" && EMU_DEVICES=1 mpirun -np 2 "$EMU" train ../train.yaml device=cuda output=three) >"$TMP/log" 2>&1; then
    not_ok "emulated: ranks beyond the devices are refused"
else
    check "emulated: ranks beyond the devices are refused" grep -q "CUDA device 1 does not exist: this node has 1" "$TMP/log"
fi
check "emulated: a launcher may show every rank a device of its own" env -C "$TMP/one" CUDA_VISIBLE_DEVICES=0 EMU_DEVICES=1 \
    mpirun -np 2 "$EMU" train ../train.yaml device=cuda output=four
finish
