#!/usr/bin/env bash
# Adapters of every kind: trained, interrupted, on two ranks; merged, resized, extracted, inspected.
. tests/train/lib.sh
make_data

T="targets: ['attn*.to_q', 'mid_block*.conv1', 'ff.net.2']"
kind() { # NAME "lora: keys": trained for a few steps
    make_config "steps: 4" "checkpoint: {every: 2}" "micro_batch: 2" "lora: {$2, $T}" "optimizer: {lr: 1e-2, lora_plus: 4}"
    straight "$1"
}
kind lokr "type: lokr, rank: 2, decompose_both: true, rank_dropout: 0.2"
kind dora "rank: 4, dora: true, rslora: true, conv_rank: 2"
kind loha "type: loha, rank: 2, dropout: 0.1, module_dropout: 0.2, max_norm: 0.5,
  rules: [{match: 'mid_block*', rank: 3, alpha: 1, lr: 5e-3}]"
make_config "steps: 24" "checkpoint: {every: 2}" "micro_batch: 2" "lora: {type: loha, rank: 2, dropout: 0.1, module_dropout: 0.2, $T}"
straight long
killed long
make_config "steps: 4" "checkpoint: {every: 2}" "micro_batch: 2" "optimizer: {lr: 1e-2, lora_plus: 4}" "lora: {type: loha, rank: 2,
  dropout: 0.1, module_dropout: 0.2, max_norm: 0.5, rules: [{match: 'mid_block*', rank: 3, alpha: 1, lr: 5e-3}], $T}"
ranks loha 2
for k in loha dora lokr; do
    "$BIN" inspect "$TMP/$k/out/lora.safetensors" >"$TMP/$k.txt" 2>&1
    check "$k: inspect" grep -qi "adapter: \(${k/dora/lora}\)" "$TMP/$k.txt"
done
check "dora: magnitudes are told" grep -q "DoRA magnitudes" "$TMP/dora.txt"
check "loha: rules" grep -q "unet.mid_block  *[0-9]*  *3 " "$TMP/loha.txt"
check "loha: metadata" grep -q 'ss_network_args.*"algo": "loha"' "$TMP/loha.txt"

# Going on from a file: the first loss is near the last one's run.
make_config "steps: 2" "lora: {init: ../loha/out/lora.safetensors}" "optimizer: {lr: 0}"
straight init
check "init: the file's factors are saved again" "$BIN" inspect "$TMP/init/out/lora.safetensors"
check "init: LoHa stays LoHa" grep -q "LoHa" <("$BIN" inspect "$TMP/init/out/lora.safetensors")

# ---- files ----
cd "$TMP" || exit 1
L=loha/out/lora.safetensors K=lokr/out/lora.safetensors D=dora/out/lora.safetensors
check "merge: into a model" "$BIN" merge "$MODEL" $L:0.5 $D -o merged
check "merge: the result is a model" "$BIN" inspect merged
check "extract: the difference comes back" "$BIN" extract "$MODEL" merged -o back.safetensors --rank 64 --frobenius 0.999
check "extract: modules" grep -q "adapter: LoRA" <("$BIN" inspect back.safetensors)
check "merge: two files, exact" "$BIN" merge $L $K:0.3 -o two.safetensors
check "merge: two files, ranks" "$BIN" merge $L $K:0.3 -o small.safetensors --rank 4 --dtype f16
check "merge: kinds" grep -q "full difference" <("$BIN" inspect two.safetensors)
check "resize" "$BIN" resize back.safetensors -o less.safetensors --rank 2
"$BIN" merge $L $D -o no.safetensors 2>err.txt
check "merge: DoRA is refused" grep -q "is DoRA, whose change depends on the model" err.txt
"$BIN" resize $L -o x.safetensors 2>err.txt
check "resize: needs a rule" grep -q "at least one of --rank" err.txt
"$BIN" merge "$MODEL" $L -o merged 2>err.txt
check "merge: keeps folders" grep -q "merged exists" err.txt
check "inspect: checkpoint" grep -q "checkpoint of training" <("$BIN" inspect "$(ls loha/out/checkpoints/*.h5 | tail -n 1)")
finish
