#!/usr/bin/env bash
# The main job on the art in datasets/: `make demo`. Fine-tunes a LoRA, renders a sweep, prints where everything is.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
ranks=${RANKS:-2}
mpi="mpirun -np $ranks --oversubscribe --bind-to none"
start=$SECONDS

echo "== 1. fine-tuning a LoRA on 61 pictograms: $mpi ./atelier train configs/demo-lora.yaml"
$mpi ./atelier train configs/demo-lora.yaml
echo
echo "== 2. rendering prompts x seeds x LoRA off/on x guidance: $mpi ./atelier sweep configs/demo-sweep.yaml"
$mpi ./atelier sweep configs/demo-sweep.yaml
echo
echo "== 3. how much of it is black or white, and whether the pictures fit their prompts"
./atelier score --model models/base out/demo-sweep/run.h5
echo
cat <<END
== done in $((SECONDS - start)) s
contact sheet    out/demo-sweep/sheet.png
images           out/demo-sweep/png/ and out/demo-sweep/run.h5 (all settings of every image in it)
LoRA             out/demo-lora/lora.safetensors (reads in A1111, ComfyUI, diffusers), checkpoints in out/demo-lora/checkpoints/
losses           out/demo-lora/loss.csv
one image again  ./atelier reproduce out/demo-sweep/run.h5#7
END
