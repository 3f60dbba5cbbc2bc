#!/usr/bin/env bash
# kill -9, again and again, at any moment: every run goes on where the last one was killed, and the end is the planned images, each once,
# with the bytes of an undisturbed run. What was stored is not rendered again.
. tests/sweep/lib.sh
export OMP_NUM_THREADS=1
KILLS=${KILLS:-50}
config "$T/k" >"$T/k.yaml"
sed -i 's/count: 3/count: 20/; s/^sheet: .*/sheet: {enabled: false}/' "$T/k.yaml" # 160 images
check kill__reference "$A" sweep "$T/k.yaml" output="$T/r" join=copy png=false

kills=0 rendered=0 ended=0
while [ $kills -lt "$KILLS" ]; do
    before=$(stored "$T/k")
    "$A" sweep "$T/k.yaml" batch=1 join=virtual >"$T/k.log" 2>&1 &
    pid=$!
    case $((kills % 3)) in
    0) wait_for_image "$T/k" $pid "$before" ;;                      # right after an image
    1) sleep "0.$((RANDOM % 4))$((RANDOM % 10))" ;;                 # anywhere, also while it starts
    2) wait_for_image "$T/k" $pid "$before"; sleep "0.0$((RANDOM % 10))" ;;
    esac
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    rc=$?
    if [ $rc -eq 0 ]; then # finished too early: take the end away and go on
        ended=$((ended + 1))
        [ $ended -gt 3 ] && break
        rm -rf "$T/k"
        continue
    fi
    kills=$((kills + 1))
done
echo "# $kills kills, $(ls "$T/k/parts" | wc -l) files in parts/, $(stored "$T/k") of 160 images stored"
check kill__often_enough test $kills -ge "$KILLS"
before=$(stored "$T/k")
"$A" sweep "$T/k.yaml" join=virtual >"$T/k.log" 2>&1
check kill__ends grep -q "$T/k/run.h5" "$T/k.log"
now=$(sed -n 's/^\([0-9]*\) images in .*/\1/p; s/^all [0-9]* images were done.*/0/p' "$T/k.log")
check kill__renders_no_stored_image_again test "${now:-999}" -le $((160 - before))
check kill__each_image_once each_once "$T/k" 160
check kill__consolidates "$A" consolidate "$T/k/run.h5" -o "$T/c.h5"
for d in images latents meta/index meta/seed meta/prompt meta/lora_hash meta/pixels_sha256 meta/record; do
    check "kill__same_$d" same_set $d "$T/r/run.h5" "$T/c.h5"
done
check kill__no_leftovers test -z "$(find "$T/k" -name '*.tmp*' -o -name '*.journal' -o -name '*.broken')"
exit $((fails > 0))
