#!/usr/bin/env bash
# Bad input of ./atelier train: exit code, a message that names the file or key, and nothing of an earlier run changed.
. tests/train/lib.sh
make_data
make_config "steps: 10" "optimizer: {lr: 2e-3, warmup: 3}" "checkpoint: {every: 5}"

run base || { not_ok "a good run" "$(tail -n 3 "$TMP/base/log")"; finish; }
ok "a good run"

sums() { (cd "$1" && find . -type f ! -name .atelier.lock -print0 | sort -z | xargs -0 sha256sum); }

# case NAME CODE PATTERN [ARGUMENT...]: in a copy of the finished run; PATTERN (extended) must be in the message.
begin() {
    rm -rf "$TMP/case"
    mkdir "$TMP/case"
    cp -r "$TMP/base/out" "$TMP/case/"
}
expect() {
    local name=$1 code=$2 pattern=$3 before got message
    shift 3
    before=$(sums "$TMP/case/out")
    : >"$TMP/case/log"
    run case "$@"
    got=$?
    message=$(grep '^atelier: ' "$TMP/case/log")
    if [ $got -ne "$code" ]; then
        not_ok "$name" "exit code $got, expected $code" "$(tail -n 3 "$TMP/case/log")"
    elif ! grep -qE -- "$pattern" <<<"$message"; then
        not_ok "$name" "expected '$pattern' in: $message"
    elif [ "$before" != "$(sums "$TMP/case/out")" ]; then
        not_ok "$name" "files of the earlier run have changed" "$(diff <(echo "$before") <(sums "$TMP/case/out"))"
    else
        ok "$name"
    fi
}
case_() { begin; expect "$@"; }

# ---- command line and config ----
"$BIN" train >"$TMP/usage" 2>&1
check "no config" test $? -eq 2
check "no config: message" grep -q "a configuration file is expected" "$TMP/usage"
case_ "unknown option" 2 "unknown option '--fast'" --fast
case_ "two configs" 2 "one configuration file expected" other.yaml
case_ "unknown key, with the nearest one" 1 "optimiser.*optimizer" optimiser.lr=1
begin
cp "$TMP/train.yaml" "$TMP/good.yaml"
echo "rezolution: 64" >>"$TMP/train.yaml"
expect "unknown key in the file" 1 "train.yaml:[0-9]+: .*rezolution.*resolution"
printf 'model: [\n' >"$TMP/train.yaml"
expect "not YAML" 1 "train.yaml:[0-9]+"
cp "$TMP/good.yaml" "$TMP/train.yaml"
case_ "value out of range" 1 "lora.rank.*1\.\.1024" lora.rank=0
case_ "not a number" 1 "steps.*'many'" steps=many
case_ "unknown choice" 1 "dtype.*f32.*bf16" dtype=f64
case_ "batch not a multiple of micro_batch" 1 "batch 6 is not a multiple of micro_batch 4" batch=6 micro_batch=4
case_ "resolution not a multiple of 8" 1 "resolution 60 is not a multiple of 8" resolution=60
case_ "micro_batch too large" 1 "micro_batch 300" batch=300 micro_batch=300
case_ "init_random for a LoRA" 1 "init_random" init_random=true
case_ "background of two numbers" 1 "background" 'background=[1, 2]'
case_ "background out of range" 1 "background.*0\.\.255" 'background=[1, 2, 300]'
case_ "no datasets" 1 "datasets" 'datasets=[]'
case_ "dataset without path" 1 "datasets.*path" 'datasets=[{repeats: 2}]'

# ---- model ----
case_ "missing model" 1 "no/such/model" model=no/such/model
case_ "model is a file" 1 "train.yaml" model=../train.yaml
begin
cp -rL "$MODEL" "$TMP/case/broken"
head -c 100000 "$MODEL/unet/diffusion_pytorch_model.safetensors" >"$TMP/case/broken/unet/diffusion_pytorch_model.safetensors"
expect "truncated weights" 1 "broken/unet/diffusion_pytorch_model.safetensors" model=broken
case_ "target that matches nothing" 1 "lora.targets.*'atn\*to_q'" 'lora.targets=["atn*to_q"]'
case_ "target in the text encoder" 1 "lora.targets.*text encoder" 'lora.targets=["*q_proj"]'
case_ "pattern of parameters that matches nothing" 1 "train.*no_such" task=full 'train=[no_such]'
case_ "resolution that the VAE cannot halve" 1 "resolution" resolution=8
case_ "more memory than there is" 1 "do not fit into this machine's [0-9]+ MiB: lower micro_batch or resolution, set gradient_checkpointing=true, or dtype=bf16" \
    batch=256 micro_batch=256 resolution=4096

# ---- data ----
data_case() { begin; mkdir "$TMP/case/d"; cp "$TMP"/data/a*.{png,txt} "$TMP/case/d"; }
case_ "missing dataset" 1 "no/data: no such dataset" 'datasets=[{path: no/data}]'
case_ "dataset of an unknown kind" 1 "train.yaml: expected a folder" 'datasets=[{path: ../train.yaml}]'
begin
mkdir "$TMP/case/d"
expect "empty folder" 1 "d: no images" 'datasets=[{path: d}]'
data_case
head -c 200 "$TMP/data/bar.png" >"$TMP/case/d/bar.png"
expect "truncated image" 1 "d/bar.png" 'datasets=[{path: d}]'
data_case
echo "not an image" >"$TMP/case/d/bar.png"
expect "text named .png" 1 "d/bar.png" 'datasets=[{path: d}]'
data_case
printf 'caf\351\n' >"$TMP/case/d/arriving_flights.txt"
expect "caption not UTF-8" 1 "d/arriving_flights.txt: caption is not UTF-8" 'datasets=[{path: d}]'
data_case
mkdir "$TMP/case/d/zoo.png"
expect "folder named .png" 1 "d/zoo.png" 'datasets=[{path: d}]'
data_case
printf '{"file_name": "d/arriving_flights.png", "text": "a"}\n{"file_name": \n' >"$TMP/case/list.jsonl"
expect "bad line in a .jsonl" 1 "list.jsonl:2: expected a JSON object" 'datasets=[{path: list.jsonl}]'
data_case
printf '{"file_name": "d/arriving_flights.png", "text": 5}\n' >"$TMP/case/list.jsonl"
expect "caption that is no string" 1 "list.jsonl:1: key 'text': expected a string" 'datasets=[{path: list.jsonl}]'
data_case
printf '\n{"text": "a"}\n' >"$TMP/case/list.jsonl"
expect "line without an image" 1 "list.jsonl:2: no file_name" 'datasets=[{path: list.jsonl}]'
data_case
printf '{"image": "d/none.png", "text": "a"}\n' >"$TMP/case/list.jsonl"
expect "listed image is missing" 1 "list.jsonl:1: no such image: (\./)?d/none.png" 'datasets=[{path: list.jsonl}]'
data_case
printf 'file_name,text\nd/arriving_flights.png,"a\n' >"$TMP/case/list.csv"
expect "open quote in a .csv" 1 "list.csv:2: a quoted field does not end" 'datasets=[{path: list.csv}]'
data_case
printf 'name,text\nd/arriving_flights.png,a\n' >"$TMP/case/list.csv"
expect "header of a .csv" 1 "list.csv:1: expected a header" 'datasets=[{path: list.csv}]'
data_case
printf 'file_name,text\nd/arriving_flights.png,a\nd/arriving_flights.png\n' >"$TMP/case/list.csv"
expect "short line in a .csv" 1 "list.csv:3: 1 fields" 'datasets=[{path: list.csv}]'
data_case
printf 'file_name,text\nd/arriving_flights.png,caf\351\n' >"$TMP/case/list.csv"
expect ".csv not UTF-8" 1 "list.csv: .*UTF-8" 'datasets=[{path: list.csv}]'
begin
echo "not HDF5" >"$TMP/case/pack.h5"
expect "pack that is not HDF5" 1 "pack.h5" 'datasets=[{path: pack.h5}]'

# ---- output folder ----
begin
flock "$TMP/case/out/.atelier.lock" sleep 60 &
holder=$!
while flock -n "$TMP/case/out/.atelier.lock" true; do sleep 0.02; done
expect "output folder in use" 1 "out: output folder is in use by another run"
kill $holder
wait $holder 2>/dev/null
begin
echo x >"$TMP/case/file"
expect "output below a file" 1 "file" output=file/out
case_ "another learning rate" 1 "step-00000010.h5 was made with '.*lr: .*' but the config says '.*lr: 0.5'" optimizer.lr=0.5
case_ "other datasets" 1 "step-00000010.h5 was made with .*repeats: 0" 'datasets=[{path: ../data, repeats: 2}]'
begin
mv "$TMP/data" "$TMP/data.away"
cp -r "$TMP/data.away" "$TMP/data"
echo "another caption" >"$TMP/data/bar.txt"
expect "edited caption" 1 "step-00000010.h5 was made with other images or captions"
rm -r "$TMP/data"
mv "$TMP/data.away" "$TMP/data"
case_ "fewer steps than done" 1 "step-00000010.h5 is past the 5 steps" steps=5

# ---- other last bits ----
if "$BIN" info | grep -qE '^kernels +base'; then
    echo "skip instruction sets"
else
    begin
    (cd "$TMP/case" && mpirun -np 1 "$BIN" train ../train.yaml output=mixed : -np 1 -x ATELIER_ISA=base "$BIN" train ../train.yaml output=mixed) >"$TMP/case/log" 2>&1
    check "ranks with different instruction sets: exit code" test $? -eq 1
    check "ranks with different instruction sets: message" grep -qE "rank 0 computes with cpu-avx[0-9]+, rank 1 with cpu-base" "$TMP/case/log"
    begin
    ATELIER_ISA=base run case steps=12
    check "resumed with another instruction set: goes on" test $? -eq 0
    check "resumed with another instruction set: a warning" \
        grep -qE "step-00000010.h5 was made by cpu-avx[0-9]+, this run goes on with cpu-base" "$TMP/case/log"
fi

# ---- damaged checkpoints ----
damaged() { # NAME COMMAND on the newest checkpoint: the run goes on from the older one and ends alike
    begin
    (cd "$TMP/case/out/checkpoints" && eval "$2") || not_ok "$1 (setup)"
    : >"$TMP/case/log"
    run case
    local got=$?
    if [ $got -ne 0 ]; then not_ok "$1" "exit code $got" "$(tail -n 3 "$TMP/case/log")"; return; fi
    grep -q "warning: checkpoint cannot be used: .*step-00000010.h5" "$TMP/case/log" || { not_ok "$1" "no warning" "$(cat "$TMP/case/log")"; return; }
    grep -q "resumed at step 5" "$TMP/case/log" || { not_ok "$1" "not from step 5"; return; }
    check "$1: falls back, same bytes" same base case lora.safetensors loss.csv checkpoints/step-00000010.h5
}
damaged "truncated checkpoint" 'truncate -s 20000 step-00000010.h5'
damaged "empty checkpoint" ': >step-00000010.h5'
damaged "flipped byte in a checkpoint" 'n=$(($(stat -c %s step-00000010.h5) / 2)); printf "\377\377\377\377" | dd of=step-00000010.h5 bs=1 seek=$n conv=notrunc status=none'
begin
for f in "$TMP"/case/out/checkpoints/*.h5; do truncate -s 1000 "$f"; done
expect "all checkpoints damaged" 1 "none of the 2 checkpoints can be read; resume=false"
run case resume=false
check "resume=false starts over" same base case lora.safetensors loss.csv
begin
run case resume=false steps=5
check "resume=false: checkpoints of the run given up are gone" test "$(ls "$TMP/case/out/checkpoints")" = step-00000005.h5

# ---- disk full: no file may grow past 300 KiB ----
begin
rm "$TMP/case/out/checkpoints/step-00000010.h5" "$TMP/case/out/lora.safetensors"
trap '' XFSZ
before=$(sums "$TMP/case/out/checkpoints")
(ulimit -f 300; run case)
got=$?
trap - XFSZ
if [ $got -eq 0 ] && grep -qE "^warning: .*checkpoints/step-00000010.h5.*(too large|[Nn]o space|write)" "$TMP/case/log"; then
    ok "checkpoint cannot be written"
else
    not_ok "checkpoint cannot be written" "exit code $got" "$(tail -n 3 "$TMP/case/log")"
fi
check "checkpoint cannot be written: the older one stays, nothing else" test "$before" = "$(sums "$TMP/case/out/checkpoints")"
run case
check "checkpoint cannot be written: resumed later, same bytes" same base case lora.safetensors loss.csv checkpoints/step-00000010.h5
# ---- the lock file ----
lock_refuses() { # NAME PATTERN ARGUMENT...
    rm -f "$TMP/train.yaml.lock"
    (cd "$TMP/base" && "$BIN" lock ../train.yaml "${@:3}") >"$TMP/lock.log" 2>&1
    local got=$?
    [ $got -eq 1 ] && grep -qF -- "$2" "$TMP/lock.log" && [ ! -e "$TMP/train.yaml.lock" ] && ok "$1" || not_ok "$1" "code $got: $(cat "$TMP/lock.log")"
}
lock_refuses "lock: a data set that is not there" "key 'datasets.1.path': there is no ../gone" 'datasets=[{path: ../data}, {path: ../gone}]'
lock_refuses "lock: held-out images that are not there" "key 'validation.datasets.0.path': there is no ../gone" 'validation.datasets=[{path: ../gone}]'
lock_refuses "lock: an adapter that is not there" "key 'lora.init': there is no gone.safetensors" lora.init=gone.safetensors
check "lock: class images that a run would make" sh -c "cd $TMP/base && $BIN lock ../train.yaml dreambooth.class_prompt='a dog' dreambooth.class_images=../later"
(cd "$TMP/data" && { echo image,caption; for f in *.png; do echo "$f,a sign"; done; } >list.csv)
(cd "$TMP/base" && "$BIN" lock ../train.yaml "datasets=[{path: ../data/list.csv}]") >"$TMP/lock.log" 2>&1
check "lock: images of a list" test "$(grep -c 'data/.*\.png$' "$TMP/train.yaml.lock")" -eq 12
(cat "$TMP/data/list.csv"; echo gone.png,a sign) >"$TMP/data/more.csv"
lock_refuses "lock: an image of a list that is not there" "../data/gone.png" "datasets=[{path: ../data/more.csv}]"
mkdir -p "$TMP/base/f32" "$TMP/base/a1111" && echo x >"$TMP/base/f32/x"
check "lock: settings that happen to be names of files are no input" sh -c "cd $TMP/base && $BIN lock ../train.yaml && ! grep " f32" ../train.yaml.lock"
finish
