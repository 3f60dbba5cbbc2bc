#!/usr/bin/env bash
# img2img, inpainting, a second pass, variations and two models in one sweep: the same bytes on 1, 2 and 4 ranks, in batches of 1, 2 and 5.
. tests/sweep/lib.sh
export OMP_NUM_THREADS=1

cat >"$T/c.yaml" <<EOF
model: tests/vectors/sd15-tiny
output: $T/x
steps: 3
size: [32, 24]
sampler: euler_a
latents: true
strength: 0.7
variation_seed: 5
axes:
  how:
    - {source: none, mask: none, hires: none, variation_strength: 0.4, vae: none}
    - {source: datasets/stickman/sm_001.png, mask: none, hires: none, variation_strength: 0, vae: none}
    - {source: datasets/stickman/sm_001.png, mask: datasets/aiga/down_arrow.png, hires: none, variation_strength: 0, vae: none}
    - {source: none, mask: none, hires: {upscale: lanczos, scale: 1.5, strength: 0.7}, variation_strength: 0, vae: tests/vectors/sd15-tiny}
  seed: {count: 5}
EOF
same_bytes() { # FOLDER FOLDER
    local k
    [ "$(ls "$1/png" | wc -l)" -eq 20 ] || return 1
    for k in $(ls "$1/png"); do cmp "$1/png/$k" "$2/png/$k" || return 1; done
}
check edit_mpi__1_rank "$A" sweep "$T/c.yaml" output="$T/1" batch=1
for n in "2 2" "4 5"; do
    set -- $n
    check "edit_mpi__${1}_ranks_batch_$2" mpirun -np $1 "$A" sweep "$T/c.yaml" output="$T/$1" batch=$2
    check "edit_mpi__${1}_ranks_batch_${2}_are_the_same" same_bytes "$T/1" "$T/$1"
done
if cmp -s "$T/1/png/000000.png" "$T/1/png/000005.png"; then bad edit_mpi__sources_matter; else ok edit_mpi__sources_matter; fi
exit $((fails > 0))
