#!/usr/bin/env bash
# Other optimizers, losses and parts: killed and resumed, on other numbers of ranks, the same bytes. Then what a run survives.
. tests/train/lib.sh
make_data
mkdir -p "$TMP/held"
for f in "$TMP"/data/*.png; do held=$f; done
mv "$held" "${held%.png}.txt" "$TMP/held/"

# Prodigy, pseudo-Huber, all kinds of noise, held-out images.
make_config "steps: 10" "checkpoint: {every: 2, keep: 1, milestone: 4}" "optimizer: {name: prodigy, prodigy: {d0: 1e-3}}" \
    "loss: {type: huber, min_snr: 5, mask: alpha}" "validation: {datasets: [{path: ../held}], every: 4, draws: 3}" \
    "noise: {offset: 0.05, offset_random: true, multires_iterations: 3, perturbation: 0.1, shift: 2}"
straight prodigy
killed prodigy
ranks prodigy 4
check "prodigy: validation at 0, 4, 8 and 10" test "$(cut -d, -f1 "$TMP/prodigy/out/validation.csv" | tr '\n' ' ')" = "step 0 4 8 10 "
for run in prodigy-kill prodigy-np4; do
    check "prodigy: the same validation in $run" cmp "$TMP/prodigy/out/validation.csv" "$TMP/$run/out/validation.csv"
done
check "prodigy: milestones and the newest stay" test "$(checkpoints prodigy | tr '\n' ' ')" = \
    "step-00000004.h5 step-00000008.h5 step-00000010.h5 "

# The whole UNet and the text encoder in bf16, rounded stochastically, with 8-bit moments and rates by group.
make_config "task: full" "lora: {}" "steps: 6" "checkpoint: {every: 2}" "text_encoder: train" "dtype: bf16" "save_dtype: f32" \
    "optimizer: {name: adamw8bit, weights: bf16, ema: 0.5, lr: 1e-3, text_encoder_lr: 1e-4, groups: [{match: ['*down_blocks*'], lr_scale: 0.5}]}"
straight full8
killed full8
ranks full8 2
check "full8: the text encoder is written" test -f "$TMP/full8/out/text_encoder/model.safetensors"
check "full8: and was trained" sh -c "! cmp -s $TMP/full8/out/text_encoder/model.safetensors $MODEL/text_encoder/model.safetensors"

# A LoRA of UNet and text encoder, schedule-free.
make_config "text_encoder: train" "steps: 6" "checkpoint: {every: 2}" "optimizer: {name: schedulefree, lr: 1e-2, warmup: 2, lora_plus: 4}"
straight free
killed free
ranks free 3
check "free: factors of the text encoder" grep -aq lora_te_text_model "$TMP/free/out/lora.safetensors"

# The others end and continue.
for o in "name: lion, lr: 1e-3" "name: adafactor" "name: adafactor, lr: 1e-3, beta1: 0.9, schedule: rex, adafactor: {relative_step: false}"; do
    make_config "steps: 6" "checkpoint: {every: 2}" "optimizer: {$o}"
    name=$(echo "$o" | tr -dc a-z0-9)
    straight "$name"
    killed "$name"
done

# A disk that cannot hold a checkpoint: the run goes on with a warning and ends.
make_config "steps: 6" "checkpoint: {every: 2}"
straight small
size=$(stat -c %s "$TMP/small/out/checkpoints/$(last_checkpoint small)")
(trap '' XFSZ; ulimit -f $((size * 2 / 3 / 1024)); run small-full)
check "full disk: the run ends" cmp "$TMP/small/out/lora.safetensors" "$TMP/small-full/out/lora.safetensors"
check "full disk: it says so" grep -q "checkpoint of step 2 was not written" "$TMP/small-full/log"
check "full disk: no half-written checkpoint" test -z "$(checkpoints small-full)"

run small --resume no
check "--resume no starts over" sh -c "! grep -q 'resumed at' $TMP/small/log"
run small --resume auto
check "--resume auto continues" grep -q "resumed at step 6" "$TMP/small/log"
run small --resume perhaps
check "--resume takes auto or no" grep -q "expected auto, yes or no" "$TMP/small/log"
finish
