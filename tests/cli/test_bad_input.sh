#!/usr/bin/env bash
# Bad input of the commands: the exit code, a message that names the file, key and line and what was expected, and nothing made. What
# tests of one command (train: tests/train/test_train_errors.sh; templates, shards, lock files) have is not repeated here.
. tests/sweep/lib.sh
M=tests/vectors/sd15-tiny
LORA=tests/vectors/lora/lora_attn_te.kohya.safetensors
mkdir "$T/art"
cp datasets/aiga/a*.{png,txt} "$T/art"
cat >"$T/t.yaml" <<EOF
task: lora
model: $M
output: $T/no
datasets: [{path: $T/art}]
resolution: 32
batch: 2
steps: 1
EOF
cat >"$T/s.yaml" <<EOF
model: $M
output: $T/no
size: [32, 24]
steps: 1
axes:
  prompt: [a cat, a dog]
EOF
train() { refused "train__$1" 1 "$2" "$A" train "$T/t.yaml" "${@:3}"; }
sweep() { refused "sweep__$1" 1 "$2" "$A" sweep "$T/s.yaml" "${@:3}"; }
lines() { # NAME TEXT KIND LINES: a configuration of these lines after those of KIND
    printf '%b' "$4" | cat "$T/$3.yaml" - >"$T/$1.yaml"
    case $3 in t) refused "$1" 1 "$2" "$A" train "$T/$1.yaml" ;; *) refused "$1" 1 "$2" "$A" sweep "$T/$1.yaml" ;; esac
}

# ---- the file ----
lines yaml__tab "yaml__tab.yaml:9: not valid YAML: found character that cannot start any token (indent with spaces, not tabs" t 'lora:\n\trank: 4\n'
lines yaml__colon "yaml__colon.yaml:8: not valid YAML: mapping values are not allowed in this context (quote a text that holds ': ')" t 'cache: a cat: sitting\n'
lines yaml__values_of_no_axis "yaml__values_of_no_axis.yaml:7: key 'prompt': expected text, got a list; what varies goes under axes" s 'prompt: [a, b]\n'
lines yaml__twice "yaml__twice.yaml:8: key 'steps' appears twice (first on line 7)" t 'steps: 3\n'
lines yaml__key_of_another_place "yaml__key_of_another_place.yaml:8: key 'rank': unknown key (did you mean 'lora.rank'?)" t 'rank: 4\n'
lines yaml__nested_value "yaml__nested_value.yaml:8: key 'optimizer.lr': expected a number in 0..10, or -1, got 'fast'" t 'optimizer: {lr: fast}\n'
lines yaml__condition "yaml__condition.yaml:7: key 'only': at character 8" s 'only: seed = = 1\n'
printf '\xef\xbb\xbf' | cat - "$T/s.yaml" >"$T/bom.yaml"
check yaml__byte_order_mark "$A" plan "$T/bom.yaml"
refused yaml__is_a_picture 1 "not valid YAML" "$A" train "$(ls "$T"/art/*.png | head -1)"
refused yaml__is_a_folder 1 "Is a directory" "$A" train "$T"
refused yaml__sweep_to_train 1 "is the configuration of a sweep: atelier sweep" "$A" train "$T/s.yaml"
refused yaml__sweep_to_dataset 1 "is the configuration of a sweep" "$A" dataset "$T/s.yaml"
refused yaml__training_to_sweep 1 "is the configuration of a training: atelier train" "$A" sweep "$T/t.yaml"
refused arguments__setting_without_value 2 "settings are key=value" "$A" train "$T/t.yaml" steps
refused arguments__not_yaml 1 "key 'datasets': command line:2: not valid YAML" "$A" train "$T/t.yaml" 'datasets=[{path: a'
refused arguments__of_info 2 "unexpected 'all'" "$A" info all

# ---- -1 stands for a default, and nothing else below 0 does ----
for key in optimizer.lr optimizer.text_encoder_lr optimizer.beta1 optimizer.beta2; do
    train "negative_$key" "key '$key': expected a number in 0.." "$key=-0.5"
done
train negative_group_lr "key 'optimizer.groups.0.lr': expected a number in 0..10, or -1" 'optimizer.groups=[{match: ["*"], lr: -0.5}]'
train negative_dropout "key 'datasets.0.caption_dropout': expected a number in 0..1, or -1" "datasets=[{path: $T/art, caption_dropout: -0.3}]"
sweep negative_eta "key 'eta': expected a number in 0..1, or -1" eta=-0.5
train nan "key 'optimizer.lr'" optimizer.lr=nan
train comma "key 'optimizer.lr'" optimizer.lr=1,5
train huge_number "key 'steps': expected an integer in 1..100000000" steps=99999999999999999999
train size_of_memory "key 'memory': expected a size like 512MiB or 8GiB in 0..1024TiB, got '8GG'" memory=8GG

# ---- what goes together ----
train bucket_limits "resolution 32 is not between bucket.min 256 and bucket.max 1024" bucket.enabled=true
train weight_of_v "loss.scale_v_pred_loss_like_noise_pred is for v_prediction" noise.predict=epsilon loss.scale_v_pred_loss_like_noise_pred=true
train exclude_nothing "lora.exclude: 'no_such*' matches none of the targets" 'lora.exclude=["no_such*"]'
train rule_for_nothing "lora.rules: 'no_such*' matches none of the targets" 'lora.rules=[{match: "no_such*", rank: 2}]'
train no_captions "no image has a caption in NAME.tags (datasets.*.extension)" "datasets=[{path: $T/art, extension: .tags}]"
sweep misspelled_axis "key 'axes.promt': nothing of this name can vary (did you mean 'prompt'?)" 'axes.promt=[a]'
sweep lora_as_text "key 'axes.lora': expected none or {path: FILE, scale: NUMBER}, got 'ink.safetensors'" 'axes.lora=[ink.safetensors]'
sweep lora_scale "expected -100..100" "axes.lora=[{path: $LORA, scale: 1e30}]"
sweep lora_missing "gone.safetensors is not there" 'axes.lora=[{path: gone.safetensors}]'
sweep lora_is_a_picture "not a safetensors file?" "axes.lora=[{path: $(ls "$T"/art/*.png | head -1)}]"
sweep lora_is_a_model "is no part of a LoRA" "axes.lora=[{path: $M/unet/diffusion_pytorch_model.safetensors}]"
sweep lora_of_another_model "the model has no such linear layer" model=models/base size=[] "axes.lora=[{path: $LORA}]"
sweep source_missing "source: $T/gone.png: No such file" "source=$T/gone.png"
sweep source_on_an_axis "axes: source: $T/s.yaml: not a PNG, JPEG or WebP image" "axes.source=[$T/s.yaml]"
sweep mask_is_text "mask: $T/s.yaml: not a PNG" "source=$(ls "$T"/art/*.png | head -1)" "mask=$T/s.yaml"
sweep two_axes "'guidance' is set by two axes" 'axes.cfg=[2]' 'axes.guidance=[3]'
sweep range_of_too_many "values: at most 1000000" 'axes.cfg={range: [0, 1000, 1e-9]}'
sweep no_line_on_the_command_line "command line: key 'axes.prompt': template:" 'axes.prompt={template: "{a|b", count: 2}'

# ---- models and folders ----
for kind in train sweep; do
    $kind model_not_there "no such model folder (models are not downloaded)" model=some/model
    $kind model_is_a_file "is a file, expected a model folder in the diffusers layout" "model=$M/unet/diffusion_pytorch_model.safetensors"
    $kind model_is_another_folder "expected a model folder in the diffusers layout, but it has no model_index.json" "model=$T/art"
    $kind output_below_a_file "s.yaml: create folder: a file of this name is there" "output=$T/s.yaml/out"
done
mkdir "$T/locked"
chmod 555 "$T/locked"
if [ "$(id -u)" != 0 ]; then
    train output_not_writable "create folder: Permission denied" "output=$T/locked/out"
elif setpriv --reuid=65534 --clear-groups test -x "$A" -a -r "$M/model_index.json" && chmod 755 "$T"; then
    refused train__output_not_writable 1 "create folder: Permission denied" setpriv --reuid=65534 --clear-groups "$A" train "$T/t.yaml" "output=$T/locked/out"
else
    echo "skip train__output_not_writable"
fi
check nothing_was_made test -z "$(find "$T/no" -type f ! -name .atelier.lock 2>&1 | grep -v 'No such')"

# ---- pictures in other formats are named, not lost ----
cp "$T/t.yaml" "$T/gif.yaml"
printf GIF89a | tee "$T/art/a.gif" >"$T/art/b.tiff"
"$A" train "$T/gif.yaml" output="$T/gif" >"$T/gif.log" 2>&1
check train__other_formats_are_named grep -q "left out, as only PNG, JPEG and WebP are read: 2 files, the first is a.gif" "$T/gif.log"

# ---- results ----
check sample__jpeg "$A" sample "$M" "a cat" steps=1 'size=[32, 24]' -o "$T/x.jpg"
check sample__jpeg_is_one grep -q JFIF <(head -c 20 "$T/x.jpg")
check sample__jpeg_has_its_record "$A" reproduce "$T/x.jpg"
refused sample__scale 2 "expected FILE or FILE:SCALE, got '$LORA:much'" "$A" sample "$M" "a cat" --lora "$LORA:much"
refused merge__scale 2 "expected FILE or FILE:SCALE, got '$LORA:'" "$A" merge "$M" "$LORA:" -o "$T/merged"
cp "$LORA" "$T/a:b.safetensors"
check merge__colon_in_the_name "$A" merge "$T/a:b.safetensors" "$LORA:0.5" -o "$T/two.safetensors"
refused sample__other_format 1 "-o: 'tiff': expected png, jpeg or webp" "$A" sample "$M" "a cat" -o "$T/x.tiff"
refused sample__no_folder 1 "there is no folder $T/gone" "$A" sample "$M" "a cat" -o "$T/gone/x.png"
check sweep__good "$A" sweep "$T/s.yaml" output="$T/run"
refused ls__folder 1 "a folder, expected a file: the images of a sweep are in OUTPUT/run.h5" "$A" ls "$T/run"
refused sheet__other_format 2 "expected FILE.png or FILE.pdf" "$A" sheet "$T/run/run.h5" --out "$T/x.jpg"
exit $((fails > 0))
