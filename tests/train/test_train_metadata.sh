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
# Times, kohya's repository, and a VAE of its own.
check "metadata: kohya's keys" meta plain 'keys - set(m) == {"ss_session_id", "ss_training_started_at", "ss_training_finished_at",
    "ss_sd_scripts_commit_hash", "ss_vae_hash", "ss_vae_name", "ss_new_vae_hash"}'
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

# The values and the modules of the network that kohya's own code makes of the same settings on the same files (tests/peers/make_kohya_metadata.py).
mkdir -p "$TMP/kohya/data/2_sks sign" "$TMP/kohya/reg/1_sign" "$TMP/kohya/other/2_sks sign"
copy() { # FROM COUNT TO [with captions]
    local f n=0
    for f in "$ROOT/datasets/$1"/*.png; do
        [ $((n += 1)) -le "$2" ] || break
        cp "$f" "$TMP/kohya/$3/"
        [ $# -lt 4 ] || [ ! -f "${f%.png}.txt" ] || cp "${f%.png}.txt" "$TMP/kohya/$3/"
    done
}
copy aiga 9 "data/2_sks sign" captions
copy stickman 3 reg/1_sign
copy stickman 5 "other/2_sks sign" captions
cp tests/vectors/pictures/grey16.png "$TMP/kohya/data/2_sks sign/aaa.png"
printf 'Tag One, tag two ,, \303\211t\303\251, tag one\n' >"$TMP/kohya/data/2_sks sign/aaa.txt"
same_values() { # NAME: as tests/vectors/metadata/kohya-values.json says, but for what names the program or a time
    python3 - "$TMP/kohya-$1/out/lora.safetensors" "$1" <<'PY'
import json, struct, sys
f = open(sys.argv[1], "rb")
ours = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
case = next(c for c in json.load(open("tests/vectors/metadata/kohya-values.json")) if c["name"] == sys.argv[2])
kohya, modules = case["values"], {name.split(".")[0] for name in ours if name[0] != "_"}
ours = ours["__metadata__"]
own = {"ss_session_id", "ss_training_started_at", "ss_sd_scripts_commit_hash", "ss_optimizer", "ss_training_comment", "ss_base_model_version"}
def near(a, b):
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(near(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(near, a, b))
    return abs(a - b) < 1e-6 if isinstance(a, float) and isinstance(b, float) else a == b and type(a) is type(b)
def same(a, b):
    return a == b or b[:1] in "[{" and near(json.loads(a), json.loads(b))
bad = [(k, ours.get(k), v) for k, v in kohya.items() if k not in own and not (k in ours and same(ours[k], v))]
for k, a, v in bad:
    print(f"{k}: {a}, kohya {v}")
odd = modules ^ set(case["modules"])
if odd:
    print("modules:", *sorted(odd))
sys.exit(len(bad) > 0 or len(kohya) < 60 or len(odd) > 0)
PY
}
for case in folders toml; do
    python3 -c 'import json, sys
print("\n".join(next(c for c in json.load(open("tests/vectors/metadata/kohya-values.json")) if c["name"] == sys.argv[1])["config"]))' $case >"$TMP/lines"
    mapfile -t lines <"$TMP/lines"
    make_config "checkpoint: {every: 100}" "${lines[@]}"
    straight kohya-$case
    check "metadata: values of kohya'\''s trainer, $case" same_values $case
done
finish
