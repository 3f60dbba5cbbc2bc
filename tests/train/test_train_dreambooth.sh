#!/usr/bin/env bash
# DreamBooth: class images made by the ranks, the same on any number of them; killed and resumed, the same bytes.
. tests/train/lib.sh
make_data
boot="prompt: sks sign, class_prompt: a sign, count: 5, steps: 2, guidance: 3, weight: 0.5"

make_config "dreambooth: {$boot}" "text_encoder: train" "steps: 14" "checkpoint: {every: 2}" "caption_dropout: 0"
straight boot
check "boot: five class images" test "$(ls "$TMP"/boot/out/class/png/*.png | wc -l)" -eq 5
killed boot
ranks boot 2 3 4
check "boot: ranks made the same class images" sh -c \
    "for f in $TMP/boot/out/class/png/*.png; do cmp \$f $TMP/boot-np3/out/class/png/\${f##*/} || exit 1; done"
touch -d 2001-01-01 "$TMP"/boot/out/class/png/*.png
run boot resume=false
check "boot: class images are not made again" test -z "$(find "$TMP/boot/out/class/png" -name '*.png' -newermt 2002-01-01)"
rm "$TMP/boot/out/class/png/000003.png" "$TMP/boot/out/class/run.h5"
run boot resume=false
check "boot: missing ones are" test -s "$TMP/boot/out/class/png/000003.png"
check "boot: another class prompt into the same folder is refused" sh -c "! (cd $TMP/boot && $BIN train ../train.yaml resume=false \
    dreambooth.class_prompt='a dog') >$TMP/other.log 2>&1 && grep -q 'dreambooth.class_images' $TMP/other.log"

# Class images that are there; the whole UNet.
cp -r "$TMP/boot/out/class/png" "$TMP/given"
make_config "task: full" "lora: {}" "dreambooth: {$boot, class_images: ../given}" "steps: 12" "checkpoint: {every: 2}"
straight given
check "given: none made" test ! -e "$TMP/given-out/class" -a ! -e "$TMP/given/sweep.yaml"
killed given
ranks given 4
cd "$TMP/boot" && "$BIN" plan ../train.yaml >"$TMP/plan.log" 2>&1
cd "$ROOT" && check "plan: twelve pictures and five, as many entries of both" grep -q "17, an epoch of 24 entries" "$TMP/plan.log"
finish
