#!/usr/bin/env bash
# A sweep on the emulated device: the same bytes on one rank and on two with a device each, in another batch; a step of
# DreamBooth, full fine-tuning and textual inversion. ATELIER_EMU names the program.
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
loss() { tail -n 1 "$TMP/$1/out/loss.csv" | cut -d, -f 2; }
near_loss() { awk -v a="$(loss "$1")" -v b="$(loss "$2")" 'BEGIN {d = a > b ? a - b : b - a; exit !(b > 0 && d <= 1e-4 * b)}'; }

# DreamBooth with the sweep's pictures as class images: the whole UNet.
make_config "task: full" "lora: {}" "steps: 1" "batch: 2" "micro_batch: 1" "optimizer: {lr: 2e-3}" "checkpoint: {background: false}" \
    "dreambooth: {prompt: sks sign, class_prompt: a red fox, class_images: ../one/png, weight: 0.5}"
check "full: DreamBooth of the whole UNet on the device" run full device=cuda
check "full: on the CPU" run fullcpu device=cpu
check "full: the loss is the CPU's" near_loss full fullcpu
# In bf16 alone, rounded stochastically, with class images made on the devices: alike on any number of them, and every value is bf16.
half="device=cuda dtype=bf16 optimizer.weights=bf16 dreambooth.class_images= dreambooth.count=2 dreambooth.steps=1 dreambooth.guidance=1"
check "full: values in bf16 alone" run half $half
MPIRUN="mpirun -np 2" check "full: on two devices" run half2 $half
check "full: the same UNet" alike half half2
check "full: the same class images" diff -r "$TMP/half/out/class/png" "$TMP/half2/out/class/png"
only_bf16() { # FILE.safetensors (f32): its matrices and kernels
    python3 - "$1" <<'END'
import json, struct, sys
data = open(sys.argv[1], "rb").read()
n = struct.unpack("<Q", data[:8])[0]
tensors = [v for k, v in json.loads(data[8:8 + n]).items() if k != "__metadata__" and len(v["shape"]) > 1]
parts = [data[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]] for v in tensors]
sys.exit(not parts or any(v["dtype"] != "F32" for v in tensors) or any(any(p[0::4]) or any(p[1::4]) for p in parts))
END
}
check "full: matrices and kernels are bf16 values" only_bf16 "$TMP"/half/out/unet/*.safetensors
if only_bf16 "$TMP"/full/out/unet/*.safetensors; then not_ok "full: those of f32 are not"; else ok "full: those of f32 are not"; fi

# A LoRA of UNet and text encoder and a new word.
make_config "text_encoder: train" "steps: 1" "batch: 2" "micro_batch: 1" "optimizer: {lr: 2e-3}" "checkpoint: {background: false}" \
    "embedding: {token: '<sign>', init: black, prompts: ['a photo of {}']}"
check "word: on one device" run word device=cuda
MPIRUN="mpirun -np 2" check "word: on two devices" run word2 device=cuda
check "word: the same LoRA and embedding" alike word word2
check "word: on the CPU" run wordcpu device=cpu
check "word: the loss is the CPU's" near_loss word wordcpu
finish
