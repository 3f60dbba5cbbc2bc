#!/usr/bin/env bash
# Textual inversion: alone and beside a LoRA; killed and resumed, on other numbers of ranks, the same bytes; used in a picture.
. tests/train/lib.sh
make_data
bare="token: '<sign>', vectors: 2, init: black"
word="$bare, prompts: ['a photo of {}', 'a picture of {}, white']"

make_config "task: embedding" "lora: {}" "embedding: {$word}" "steps: 14" "checkpoint: {every: 2}" "optimizer: {lr: 5e-2, weight_decay: 0}"
straight word
killed word
ranks word 3
check "word: it learned something" sh -c "! head -c 100000 $TMP/word/out/checkpoints/step-00000012.h5 | cmp -s - $TMP/word/out/checkpoints/step-00000014.h5"
run word-bf16 dtype=bf16
check "word: bf16" test -f "$TMP/word-bf16/out/embedding.safetensors"
run word-more embedding.init=../word/out/embedding.safetensors embedding.format=a1111
check "word: goes on from a file, in A1111's form" grep -aq emb_params "$TMP/word-more/out/embedding.safetensors"
sample() { "$BIN" sample "$MODEL" "$1" -o "$TMP/$2.png" size=[16] steps=2 seed=3 embeddings="[$TMP/word/out/embedding.safetensors]"; }
check "word: a picture with it" sample "a photo of <sign>" with
check "word: a picture of its first words" sample "a photo of black" without
check "word: it changes the picture" sh -c "! cmp -s $TMP/with.png $TMP/without.png"

make_config "embedding: {$bare}" "steps: 14" "checkpoint: {every: 2}" "datasets: [{path: ../data, prompt: 'one <sign>'}]"
straight both
check "both: adapter and embedding" test -f "$TMP/both/out/embedding.safetensors" -a -f "$TMP/both/out/lora.safetensors"
killed both
ranks both 2

make_config "task: embedding" "embedding: {token: '<sign>'}"
run none
check "a caption without the token is refused" grep -q "does not hold embedding.token '<sign>'" "$TMP/none/log"
make_config "task: embedding"
run none
check "task embedding needs a token" grep -q "needs embedding.token" "$TMP/none/log"
finish
