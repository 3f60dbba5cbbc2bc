#!/usr/bin/env bash
# Same config and seed, same bytes: after interruptions, on any number of ranks and threads, for lora and full, f32 and bf16.
. tests/train/lib.sh
make_data

# Starts a run in the background, sends SIGNAL once a checkpoint is there, and waits. The run's exit code is in $code.
interrupted() { # DIR SIGNAL [ARGUMENT...]
    local dir=$1 signal=$2 before pid
    shift 2
    before=$(ls "$TMP/$dir/out/checkpoints" 2>/dev/null | tail -n 1)
    mkdir -p "$TMP/$dir"
    (cd "$TMP/$dir" && exec ${MPIRUN:-} "$BIN" train ../train.yaml "$@") >>"$TMP/$dir/log" 2>&1 </dev/null &
    pid=$!
    while kill -0 $pid 2>/dev/null; do
        [ "$(ls "$TMP/$dir/out/checkpoints" 2>/dev/null | grep -v tmp | tail -n 1)" != "$before" ] && break
        sleep 0.02
    done
    kill "-$signal" $pid 2>/dev/null
    wait $pid
    code=$?
}

results() { # results of the task
    case $1 in lora) echo lora.safetensors ;; full) echo unet/diffusion_pytorch_model.safetensors ;; esac
}

battery() { # NAME TASK: everything for the config in $TMP/train.yaml
    local name=$1 what last n
    what="$(results "$2") loss.csv"
    run "$name" || { not_ok "$name: straight run" "$(tail -n 3 "$TMP/$name/log")"; return; }
    ok "$name: straight run"
    last=checkpoints/$(last_checkpoint "$name")

    interrupted "$name-term" TERM
    [ $code -eq 3 ] && ok "$name: SIGTERM stops with code 3" || not_ok "$name: SIGTERM stops with code 3" "code $code"
    grep -q "stopped by SIGTERM" "$TMP/$name-term/log" || not_ok "$name: SIGTERM message"
    run "$name-term"
    check "$name: SIGTERM and resume, same bytes" same "$name" "$name-term" $what "$last"

    interrupted "$name-kill" KILL
    interrupted "$name-kill" KILL
    [ $code -eq 137 ] && ok "$name: killed twice" || not_ok "$name: killed twice" "code $code"
    run "$name-kill"
    check "$name: kill -9 twice and resume, same bytes" same "$name" "$name-kill" $what "$last"
    grep -q "resumed at step" "$TMP/$name-kill/log" && ok "$name: resumed" || not_ok "$name: resumed"
}

ranks() { # NAME TASK N...
    local name=$1 what n
    what="$(results "$2") loss.csv checkpoints/$(last_checkpoint "$name")"
    shift 2
    for n in "$@"; do
        MPIRUN="mpirun -np $n" run "$name-np$n"
        check "$name: $n ranks, same bytes" same "$name" "$name-np$n" $what
    done
}

make_config
battery lora lora
ranks lora lora 1 2 3 4

# Interrupted on 2 ranks, continued on 3, then alone.
MPIRUN="mpirun -np 2" interrupted lora-mixed USR1
[ $code -eq 3 ] && ok "lora: SIGUSR1 to mpirun stops with code 3" || not_ok "lora: SIGUSR1 to mpirun stops with code 3" "code $code"
MPIRUN="mpirun -np 3" interrupted lora-mixed USR1
run lora-mixed
check "lora: 2, 3 and 1 ranks in turn, same bytes" same lora lora-mixed lora.safetensors loss.csv "checkpoints/$(last_checkpoint lora)"

# A cache made by three ranks, and one of the run's own.
MPIRUN="mpirun -np 3" run lora-cache cache=cache3
run lora-own cache=cache1
check "lora: caches of 1 and 3 ranks, same rows" cmp "$TMP/lora-cache/cache3/latents-512.h5" "$TMP/lora-own/cache1/latents-512.h5"
check "lora: caches of 1 and 3 ranks, same embeddings" cmp "$TMP/lora-cache/cache3/text-2464.h5" "$TMP/lora-own/cache1/text-2464.h5"
check "lora: fresh caches, same result" same lora lora-own lora.safetensors loss.csv

OMP_NUM_THREADS=1 run lora-threads
check "lora: one thread, same bytes" same lora lora-threads lora.safetensors loss.csv "checkpoints/$(last_checkpoint lora)"
run lora-recompute gradient_checkpointing=true
check "lora: gradient checkpointing, same losses" same lora lora-recompute loss.csv
sum_of() { grep -aoE '[0-9a-f]{64}' "$1" | head -n 1; }
check "lora: gradient checkpointing, same state" \
    test "$(sum_of "$TMP/lora/out/checkpoints/$(last_checkpoint lora)")" = "$(sum_of "$TMP/lora-recompute/out/checkpoints/$(last_checkpoint lora)")"
run lora
check "lora: a finished run again, same bytes" same lora lora-term lora.safetensors loss.csv

make_config "dtype: bf16" "flip: true" "caption_dropout: 0.3"
battery bf16 lora
ranks bf16 lora 3

# Random crops (latents made on the fly), an average of weights, more images in a step than in the set.
make_config "crop: random" "batch: 18" "micro_batch: 3" "steps: 16" "resolution: 32" "save_dtype: f16"
sed -i '/^batch: 4$/d; /^micro_batch: 1$/d; /^steps: 40$/d; /^resolution: 64$/d; s/warmup: 3/warmup: 3, ema: 0.9/; s/every: 5/every: 3/' "$TMP/train.yaml"
battery crop lora
ranks crop lora 4

make_config "task: full"
sed -i '/^lora:/d' "$TMP/train.yaml"
battery full full
ranks full full 2 3
OMP_NUM_THREADS=1 run full-threads
check "full: one thread, same bytes" same full full-threads unet/diffusion_pytorch_model.safetensors "checkpoints/$(last_checkpoint full)"

# It learns: the mean loss of the last third is below that of the first.
make_config "task: full" "caption_dropout: 0"
sed -i '/^lora:/d; s/lr: 2e-3/lr: 1e-3/' "$TMP/train.yaml"
run learn
check "full: the loss falls" awk -F, 'NR > 1 { if (NR <= 14) a += $2; else if (NR > 28) b += $2 } END { print a / 13, b / 13; exit !(b / 13 < 0.9 * a / 13) }' "$TMP/learn/out/loss.csv"
finish
