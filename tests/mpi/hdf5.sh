#!/usr/bin/env bash
# The program with a parallel HDF5 ($ATELIER; make check-hdf5): a sweep whose ranks write run.h5 together, and consolidate on several
# ranks, against what one process of the usual program makes; a training continued by the other program.
. tests/sweep/lib.sh
S=./atelier
check hdf5__is_parallel grep -q MPI-IO <("$A" info)
check hdf5__the_usual_one_is_not test -z "$("$S" info | grep MPI-IO)"
{ config "$T/a" | sed 's/^size:.*//; s/^  seed:.*/  seed: {count: 2}\n  size: [[32, 24], [40, 24]]/; s/^sheet:.*/sheet: {enabled: false}/'; echo "join: copy"; } >"$T/c.yaml"
check hdf5__reference "$S" sweep "$T/c.yaml"
"$S" sweep "$T/c.yaml" output="$T/v" join=virtual png=false >/dev/null 2>&1
sets="images_32x24 images_40x24 latents_32x24 latents_40x24 meta/index meta/row meta/record meta/pixels_sha256 grid/shape"
for n in 2 4; do
    check hdf5__sweep_on_$n mpirun -np $n "$A" sweep "$T/c.yaml" output="$T/p$n"
    check hdf5__sweep_on_${n}_leaves_no_parts clean_folder "$T/p$n"
    for d in $sets; do check "hdf5__sweep_on_${n}_same_$d" same_set $d "$T/a/run.h5" "$T/p$n/run.h5"; done
done
# Two images at a time, more ranks than that fits: some write nothing in some rounds.
for n in 1 2 3 4; do
    check hdf5__consolidate_on_$n mpirun -np $n -x ATELIER_H5_ROUND=2400 "$A" consolidate "$T/v/run.h5" -o "$T/c$n.h5"
    for d in $sets; do check "hdf5__consolidate_on_${n}_same_$d" same_set $d "$T/a/run.h5" "$T/c$n.h5"; done
done
check hdf5__usual_program_reproduces "$S" reproduce "$T/c3.h5"
check hdf5__usual_program_on_two_ranks mpirun -np 2 "$S" consolidate "$T/v/run.h5" -o "$T/c.h5"
check hdf5__and_writes_the_same same_set images_32x24 "$T/a/run.h5" "$T/c.h5"
rm "$T"/v/parts/*0.h5
refused hdf5__missing_part 1 "v/parts" mpirun -np 2 "$A" consolidate "$T/v/run.h5" -o "$T/bad.h5"
check hdf5__leaves_nothing_behind test -z "$(find "$T" -maxdepth 1 -name '*bad.h5*')"

cat >"$T/t.yaml" <<E
model: tests/vectors/sd15-tiny
output: $T/t
datasets: [{path: datasets/stickman}]
resolution: 16
batch: 2
micro_batch: 1
steps: 8
lora: {rank: 2}
checkpoint: {every: 4, keep: 2}
E
"$S" train "$T/t.yaml" >/dev/null 2>&1
cp "$T/t/lora.safetensors" "$T/straight"
rm "$T/t/checkpoints/step-00000008.h5"
check hdf5__training_goes_on mpirun -np 2 "$A" train "$T/t.yaml"
check hdf5__training_same_bytes cmp "$T/straight" "$T/t/lora.safetensors"
exit $((fails > 0))
