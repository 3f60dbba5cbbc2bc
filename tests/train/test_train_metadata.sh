#!/usr/bin/env bash
# Metadata of a LoRA file: every ss_ key of kohya's trainer, its values in Python's form, modelspec, what the user says of it.
. tests/train/lib.sh
make_data
meta() { # NAME CHECK: a Python expression over m, the metadata
    python3 - "$TMP/$1/out/lora.safetensors" "$2" <<'PY'
import json, struct, sys
f = open(sys.argv[1], "rb")
m = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))["__metadata__"]
keys = set(open("tests/vectors/metadata/kohya-keys.txt").read().split())
sys.exit(0 if eval("(" + sys.argv[2] + ")") else print("metadata:", {k: v for k, v in m.items() if len(v) < 100}) or 1)
PY
}

make_config "steps: 3" "batch: 2" "micro_batch: 1" "optimizer: {lr: 1e-5}"
straight plain
# Times, kohya's repository, and a VAE or bucket limits where there are none.
check "metadata: kohya's keys" meta plain 'keys - set(m) == {"ss_session_id", "ss_training_started_at", "ss_training_finished_at",
    "ss_sd_scripts_commit_hash", "ss_vae_hash", "ss_vae_name", "ss_new_vae_hash", "ss_min_bucket_reso", "ss_max_bucket_reso"}'
check "metadata: numbers as Python writes them" meta plain '(m["ss_learning_rate"], m["ss_max_grad_norm"], m["ss_huber_c"], m["ss_steps"]) ==
    ("1e-05", "1.0", "0.1", "3")'
check "metadata: what is off is None or False" meta plain '(m["ss_noise_offset"], m["ss_min_snr_gamma"], m["ss_multires_noise_iterations"],
    m["ss_zero_terminal_snr"], m["ss_text_encoder_lr"], m["ss_network_dropout"]) == ("None", "None", "None", "False", "None", "None")'
check "metadata: modelspec" meta plain 'm["modelspec.sai_model_spec"] == "1.0.1" and m["modelspec.architecture"].endswith("/lora") and
    m["modelspec.title"] == "out" and m["modelspec.prediction_type"] == "epsilon" and "modelspec.date" not in m and "modelspec.timestep_range" not in m'

make_config "steps: 3" "batch: 2" "micro_batch: 1" "text_encoder: train" "optimizer: {lr: 2e-4, text_encoder_lr: 5e-5, schedule: cosine_restarts, warmup: 1}" \
    "noise: {offset: 0.05, multires_iterations: 6, perturbation: 0.1, zero_snr: true, timestep_max: 900}" "loss: {type: huber, min_snr: 5}" \
    "metadata: {author: 'É. Dupont', license: CC0-1.0, description: 'ink, \"black\"', tags: 'ink, style'}"
SOURCE_DATE_EPOCH=86400 straight full
check "metadata: settings" meta full '[m["ss_" + k] for k in ("noise_offset", "multires_noise_iterations", "ip_noise_gamma", "zero_terminal_snr",
    "loss_type", "min_snr_gamma", "lr_scheduler", "text_encoder_lr", "unet_lr")] ==
    ["0.05", "6", "0.1", "True", "huber", "5.0", "cosine_with_restarts", "5e-05", "0.0002"]'
check "metadata: the user'\''s words" meta full '[m["modelspec." + k] for k in ("author", "license", "description", "tags", "date", "timestep_range")] ==
    ["\u00c9. Dupont", "CC0-1.0", "ink, \"black\"", "ink, style", "1970-01-02T00:00:00", "0,900"]'

make_config "steps: 4" "batch: 2" "micro_batch: 1" "optimizer: {lr: 1e-5}" "metadata: {license: CC-BY-4.0}"
cp -r "$TMP/plain" "$TMP/again"
check "metadata: may change when a run goes on" run again
check "metadata: the new words are in the file" meta again 'm["modelspec.license"] == "CC-BY-4.0" and m["ss_steps"] == "4"'
finish
