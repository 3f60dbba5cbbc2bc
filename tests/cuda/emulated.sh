#!/usr/bin/env bash
# The whole program on the emulated device: images and training beside those of the CPU backend. ATELIER_EMU names the program.
cd "$(dirname "$0")/../.." || exit 1
. tests/train/lib.sh
EMU=$(realpath "${ATELIER_EMU:-build/release/emu/atelier}") || exit 1
make_data

# The pixels of both are the same, or their PSNR is at least DB.
alike() { # A.png B.png DB
    "$EMU" diff "$1" "$2" >"$TMP/diff" || true
    grep -q '^backend: cpu' "$TMP/diff" || return 1 # they come from different backends
    grep -q '^pixels' "$TMP/diff" || return 0
    sed -n 's/.*PSNR \([0-9.]*\) dB.*/\1/p' "$TMP/diff" | awk -v least="$3" '{ok = $1 >= least} END {exit !ok}'
}
render() { # DEVICE DTYPE OUT
    "$EMU" sample "$MODEL" "a red fox" -o "$3" "device=$1" "dtype=$2" size=[32,24] steps=2 sampler=euler_a seed=5
}
for t in f32 bf16; do
    check "emulated: $t image on the CPU" render cpu $t "$TMP/cpu-$t.png"
    check "emulated: $t image on the device" render cuda $t "$TMP/cuda-$t.png"
    check "emulated: $t images are alike" alike "$TMP/cpu-$t.png" "$TMP/cuda-$t.png" $([ $t = f32 ] && echo 60 || echo 30)
done

make_config "steps: 3" "batch: 2" "micro_batch: 1"
train() { # RANKS DEVICE OUT
    mkdir -p "$TMP/$3"
    (cd "$TMP/$3" && EMU_DEVICES=2 mpirun -np "$1" "$EMU" train ../train.yaml "device=$2")
}
check "emulated: training on one device" train 1 cuda one
check "emulated: training on two devices" train 2 cuda two
check "emulated: training on the CPU" train 1 cpu host
check "emulated: the LoRA does not depend on the number of devices" cmp "$TMP/one/out/lora.safetensors" "$TMP/two/out/lora.safetensors"
losses() { h5dump -d /loss "$(ls "$TMP/$1"/out/checkpoints/*.h5 | tail -1)" | grep -oE '\([0-9]+\): .*' | sed 's/([0-9]*)://' | tr -d ' ' | tr ',' '\n'; }
same_losses() {
    paste <(losses one) <(losses host) | awk '{d = $1 - $2; if (d < 0) d = -d; if (d > 1e-4 * ($2 > 0 ? $2 : -$2)) bad = 1; n++} END {exit bad || n < 3}'
}
check "emulated: losses as on the CPU" same_losses
if (cd "$TMP/one" && EMU_DEVICES=1 mpirun -np 2 "$EMU" train ../train.yaml device=cuda output=three) >"$TMP/log" 2>&1; then
    not_ok "emulated: ranks beyond the devices are refused"
else
    check "emulated: ranks beyond the devices are refused" grep -q "CUDA device 1 does not exist: this node has 1" "$TMP/log"
fi
check "emulated: a launcher may show every rank a device of its own" env -C "$TMP/one" CUDA_VISIBLE_DEVICES=0 EMU_DEVICES=1 \
    mpirun -np 2 "$EMU" train ../train.yaml device=cuda output=four
finish
