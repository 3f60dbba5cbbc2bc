#!/usr/bin/env bash
# The tasks that make a base model: VAE and CLIP, from weights and from nothing. Interruptions, ranks, what they leave.
. tests/train/lib.sh
make_data

make_config "task: vae" "steps: 8" "checkpoint: {every: 2}" "optimizer: {lr: 1e-3, ema: 0.9}" "micro_batch: 2"
straight vae
killed vae
ranks vae 2
check "vae: the model's own scaling factor stays" grep -q '"scaling_factor": 0.18215' "$TMP/vae/out/vae/config.json"

make_config "task: vae" "steps: 4" "batch: 6" "micro_batch: 3" "init_random: true" "optimizer: {lr: 1e-3}" "dtype: bf16"
straight vae-new
ranks vae-new 3
check "vae-new: scaling factor of the new latents" awk -F'[:,]' \
    '/scaling_factor/ { found = $2 > 0 && $2 != 0.18215 } END { exit !found }' "$TMP/vae-new/out/vae/config.json"

# A tiny pair with the real tokenizer.
mkdir -p "$TMP/pair/clip"
cp -rL "$MODEL/tokenizer" "$TMP/pair/"
sed 's/"vocab_size": 64/"vocab_size": 49408/; s/"bos_token_id": 62/"bos_token_id": 49406/; s/"eos_token_id": 63/"eos_token_id": 49407/
     s/"pad_token_id": 63/"pad_token_id": 49407/; s/"image_size": 12/"image_size": 16/' tests/vectors/clip/config.json >"$TMP/pair/clip/config.json"
make_config "task: clip" "model: ../pair" "batch: 6" "micro_batch: 6" "steps: 8" "init_random: true" "checkpoint: {every: 2}" "lora: {}" \
    "optimizer: {lr: 1e-2}"
straight clip
killed clip
ranks clip 2
check "clip: the pair is learnt" awk -F, 'NR == 2 { a = $2 } END { exit !($2 < a) }' "$TMP/clip/out/loss.csv"

# Trained on: from the weights just made.
cp "$TMP/clip/out/clip/model.safetensors" "$TMP/pair/clip/"
make_config "task: clip" "model: ../pair" "batch: 6" "micro_batch: 6" "steps: 2" "lora: {}" "optimizer: {lr: 1e-3}"
straight clip-on
check "clip-on: begins where the first run ended" awk -F, 'FNR == 1 { f++ } FNR > 1 && f == 1 { last = $2 } FNR == 2 && f == 2 { first = $2 }
    END { exit !(first < 1.1 * last) }' "$TMP/clip/out/loss.csv" "$TMP/clip-on/out/loss.csv"

make_config "task: clip" "model: ../pair" "batch: 6" "micro_batch: 3" "lora: {}"
run clip-bad
check "clip: micro_batch is the batch" grep -q "^atelier: .*micro_batch must equal batch" "$TMP/clip-bad/log"
make_config "task: clip" "model: ../pair" "batch: 6" "micro_batch: 6" "resolution: 24" "lora: {}"
run clip-size
check "clip: size of the image tower" grep -q "^atelier: resolution 24: the image tower of .* takes 16" "$TMP/clip-size/log"
finish
