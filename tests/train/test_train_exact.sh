#!/usr/bin/env bash
# Same config and seed, same bytes: after interruptions, on any number of ranks and threads, for lora and full, f32 and bf16.
. tests/train/lib.sh
make_data

make_config
straight lora
terminated lora
killed lora
ranks lora 1 2 3 4
threads lora

# Interrupted on 2 ranks, then on 3, ended alone.
MPIRUN="mpirun -np 2" interrupt USR1 lora-mixed
[ $code -eq 3 ] && ok "lora: SIGUSR1 to mpirun stops with code 3" || not_ok "lora: SIGUSR1 to mpirun stops with code 3" "code $code"
MPIRUN="mpirun -np 3" interrupt USR1 lora-mixed
run lora-mixed
check "lora: 2, 3 and 1 ranks in turn, same bytes" alike lora lora-mixed

# Caches made by three ranks, each into files of its own, are what one rank makes; a run on them computes nothing. Checkpoints hold
# the keys of the cache, LoRA files do not.
same_lora() { cmp "$TMP/$1/out/lora.safetensors" "$TMP/$2/out/lora.safetensors"; }
MPIRUN="mpirun -np 3" run lora-cache3 cache=cache
check "lora: three ranks wrote caches" test "$(ls "$TMP"/lora-cache3/cache/latents-*.h5 | wc -l)" -eq 3
check "lora: caches of three ranks, same bytes" same_lora lora lora-cache3
run lora-cache1 cache="$TMP/lora-cache3/cache" steps=2
check "lora: their caches are used" test "$(ls "$TMP"/lora-cache3/cache/*.h5 | grep -c r0-1)" -eq 0
MPIRUN="mpirun -np 3" run lora-node cache=cache cache_scope=node
check "lora: caches per node, same bytes" same_lora lora lora-node

sum_of() { grep -aoE '[0-9a-f]{64}' "$TMP/$1/out/checkpoints/$(last_checkpoint "$1")" | head -n 1; }
run lora-recompute gradient_checkpointing=true
check "lora: gradient checkpointing, same state" test -n "$(sum_of lora)" -a "$(sum_of lora)" = "$(sum_of lora-recompute)"
run lora
check "lora: a finished run again, same bytes" alike lora-term lora

make_config "dtype: bf16" "flip: true" "caption_dropout: 0.3"
straight bf16
killed bf16
ranks bf16 3
threads bf16

# Random crops (latents made on the fly), an average of weights, more images in a step than in the set.
make_config "crop: random" "batch: 18" "micro_batch: 3" "steps: 9" "save_dtype: f16" "checkpoint: {every: 2}" \
    "optimizer: {lr: 2e-3, schedule: linear, ema: 0.9}" "lora: {rank: 2, targets: [conv1, 'ff.net*'], format: peft}"
straight crop
killed crop
ranks crop 4

validation_of_sizes() { # before the first step, when micro-batches have not changed any weight
    run bucket-one micro_batch=1 steps=1 && cmp <(sed 2q "$TMP/bucket/out/validation.csv") <(sed 2q "$TMP/bucket-one/out/validation.csv")
}

# Buckets, tags shuffled and dropped, alternatives, regularisation images, random crops of some.
make_mixed_data
make_config "datasets: [{path: ../mixed, shuffle: true, tag_dropout: 0.3, wildcards: true, keep_tokens: 1, trigger: pictogram}, {path: ../data, is_reg: true, crop: random, flip: true, caption_dropout: 0.5}]" \
    "bucket: {enabled: true, min: 8, max: 32, steps: 8}" "resolution: 24" "batch: 6" "micro_batch: 2" "prior_weight: 0.5" "cache: cache" \
    "validation: {datasets: [{path: ../mixed}], every: 8}"
straight bucket
check "bucket: several sizes are validated, the same in any micro-batch" validation_of_sizes
terminated bucket
killed bucket
ranks bucket 2 3

make_config "task: full" "lora: {}"
straight full
killed full
ranks full 2 3 4
threads full

# It learns: the mean loss of the last third is well below that of the first.
make_config "task: full" "caption_dropout: 0" "steps: 30" "optimizer: {lr: 2e-3}" "batch: 8" "micro_batch: 8"
straight learn
check "full: the loss falls" awk -F, \
    'NR > 1 { if ($1 <= 10) a += $2; if ($1 > 20) b += $2 } END { print a / 10, b / 10; exit !(b < 0.9 * a) }' "$TMP/learn/out/loss.csv"
finish
