#!/usr/bin/env bash
# What a run shows: samples, events, curves, report; and that looking changes nothing.
. tests/train/lib.sh
make_data
mkdir -p "$TMP/held"
for f in "$TMP"/data/*.png; do held=$f; done
mv "$held" "${held%.png}.txt" "$TMP/held/"
prompts="prompts: ['a red apple --w 24 --h 16 --d 5 --l 3 --s 2 --n blue', 'a tree'], every: 6, steps: 3"

# An average of the weights, so that the values shown are not those in training.
make_config "steps: 14" "checkpoint: {every: 2}" "optimizer: {lr: 2e-3, ema: 0.9}" "validation: {datasets: [{path: ../held}], every: 7}"
straight plain
sed -i 's/^steps: 14/&\nsamples: {'"$prompts"'}/' "$TMP/train.yaml"
straight shown
sum_of() { grep -aoE '[0-9a-f]{64}' "$TMP/$1/out/checkpoints/$(last_checkpoint "$1")" | head -n 1; }
check "samples: the training is the same without them" test -n "$(sum_of plain)" -a "$(sum_of plain)" = "$(sum_of shown)"
check "samples: the result too" cmp "$TMP/plain/out/lora.safetensors" "$TMP/shown/out/lora.safetensors"
files() { (cd "$TMP/$1/out/samples" && ls | tr '\n' ' '); }
check "samples: at 0, 6, 12 and the end" test "$(files shown)" = "$(for s in 00 06 12 14; do for p in 00 01; do
    printf 'step-000000%s-%s.png ' $s $p; done; done)"
check "samples: they change while it trains" sh -c "! cmp -s $TMP/shown/out/samples/step-00000000-01.png $TMP/shown/out/samples/step-00000014-01.png"
MPIRUN="mpirun -np 2" run shown-np2
interrupt KILL shown-kill
run shown-kill
for other in shown-np2 shown-kill; do
    check "samples: the same in $other" diff -r "$TMP/shown/out/samples" "$TMP/$other/out/samples"
    check "samples: the same sheet in $other" cmp "$TMP/shown/out/samples.png" "$TMP/$other/out/samples.png"
done
run shown samples.every=5
check "samples: the key may change between two parts of a run" test $? -eq 0
check "report: curves, samples, settings" sh -c "grep -c 'data:image/png' $TMP/shown/out/report.html | grep -qx 4 &&
    grep -q 'held-out loss' $TMP/shown/out/report.html && grep -q 'max_skips' $TMP/shown/out/report.html"
check "report: a picture of the loss" test -s "$TMP/shown/out/loss.png"
check "events: a file" sh -c "ls $TMP/shown/out/tensorboard/events.out.tfevents.*.atelier"
run quiet samples.prompts=[] tensorboard=false report=false
check "events, report: can be switched off" test ! -e "$TMP/quiet/out/tensorboard" -a ! -e "$TMP/quiet/out/report.html"
make_config "samples: {prompts: ['a tree --q 3']}"
run bad
check "samples: an unknown option is named" grep -q "unknown option --q" "$TMP/bad/log"
# Files to choose among.
hash_of() { python3 -c 'import json, struct, sys
f = open(sys.argv[1], "rb")
print(json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))["__metadata__"]["sshs_model_hash"])' "$1"; }
make_config "steps: 14" "checkpoint: {every: 2}" "optimizer: {lr: 2e-3, ema: 0.9}" "validation: {datasets: [{path: ../held}], every: 7}" "save_every: 6"
straight saved
check "saves: after 6 and 12 steps" test "$(ls "$TMP/saved/out/saves" | tr '\n' ' ')" = "lora-00000006.safetensors lora-00000012.safetensors "
check "saves: the training is the same" cmp "$TMP/saved/out/lora.safetensors" "$TMP/plain/out/lora.safetensors"
MPIRUN="mpirun -np 2" run saved-np2
check "saves: the same of two ranks" cmp "$TMP/saved/out/saves/lora-00000006.safetensors" "$TMP/saved-np2/out/saves/lora-00000006.safetensors"
run six steps=6
check "saves: what a run of 6 steps ends with" test "$(hash_of "$TMP/six/out/lora.safetensors")" = "$(hash_of "$TMP/saved/out/saves/lora-00000006.safetensors")"
check "saves: not what one of 14 does" test "$(hash_of "$TMP/plain/out/lora.safetensors")" != "$(hash_of "$TMP/saved/out/saves/lora-00000006.safetensors")"
mkdir -p "$TMP/barred/out"
touch "$TMP/barred/out/saves"
run barred
check "saves: where they cannot be written, the run goes on" cmp "$TMP/barred/out/lora.safetensors" "$TMP/plain/out/lora.safetensors"
check "saves: and says so" grep -q "the files of step 6 are not in out/saves, training goes on" "$TMP/barred/log"
# The weights of a full fine-tuning, in bf16.
make_config "task: full" "lora: {}" "steps: 4" "dtype: bf16" "samples: {prompts: [a tree], steps: 2, every: 4}" "optimizer: {lr: 1e-2}" \
    "save_every: 2"
straight full
check "full: a model on the way" "$BIN" sample "$TMP/full/out/saves/step-00000002" "a tree" -o "$TMP/way.png" size=[16] steps=2 dtype=bf16
check "full: samples change" sh -c "! cmp -s $TMP/full/out/samples/step-00000000-00.png $TMP/full/out/samples/step-00000004-00.png"
shares() { # A B: the same file, where the system allows that
    cmp "$1" "$2" && { [ "$1" -ef "$2" ] || [ ! -O "$1" ] || [ "$(stat -c %d "$1")" != "$(stat -c %d "$2")" ]; }
}
check "full: parts that are not trained share their files" shares "$(realpath "$MODEL/vae/diffusion_pytorch_model.safetensors")" \
    "$TMP/full/out/vae/diffusion_pytorch_model.safetensors"
mv "$TMP/full/out" "$TMP/model" # a whole model
"$BIN" sample "$TMP/model" "a tree" -o "$TMP/after.png" size=[16] steps=2 seed=1 dtype=bf16 >"$TMP/after.log" 2>&1
"$BIN" diff "$TMP/after.png" "$TMP/model/samples/step-00000004-00.png" >"$TMP/diff.log" 2>&1
check "full: the last sample is what the saved model renders" sh -c "grep -q 'not there' $TMP/diff.log && ! grep -q 'pixels differ' $TMP/diff.log"
finish
