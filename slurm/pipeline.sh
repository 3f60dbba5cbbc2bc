#!/bin/bash
# Caches -> training -> sweep (in shards) -> join -> export, as jobs that wait for each other.
#     slurm/pipeline.sh TRAIN.yaml SWEEP.yaml [SHARDS]
# The sweep names the result of the training (lora: {path: OUTPUT/lora.safetensors}). A job that fails cancels those after it.
# Options of all jobs: SBATCH_OPTIONS="--partition=gpu --account=art"; of the caches' job, which needs no fast network: CACHE_OPTIONS.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export ATELIER_SLURM=$here ATELIER=${ATELIER:-atelier}
train=${1:?TRAIN.yaml} sweep=${2:?SWEEP.yaml} shards=${3:-1}
read -ra options <<<"${SBATCH_OPTIONS:-}"
read -ra cache_options <<<"${CACHE_OPTIONS:-}"
key() { sed -n "s/^$2: *\([^#]*[^# ]\).*/\1/p" "$1" | head -n 1; }
out=$(key "$train" output) run=$(key "$sweep" output) cache=$(key "$train" cache)

submit() { # DEPENDENCY OPTION...: prints the job's number
    local after=$1 id
    shift
    id=$(sbatch --parsable ${after:+--dependency=afterok:$after --kill-on-invalid-dep=yes} ${options[@]+"${options[@]}"} "$@")
    echo "${id%%;*}"
}
# One step in a folder of its own fills the caches that the training then reads.
a=$(submit "" --job-name=atelier-cache ${cache_options[@]+"${cache_options[@]}"} --nodes=1 --ntasks-per-node=1 --export=ALL,SCRATCH= \
    "$here/train.sbatch" "$train" steps=1 "output=$out/prepare" "cache=${cache:-$out/cache}")
b=$(submit "$a" --export=ALL,SCRATCH= "$here/train.sbatch" "$train")
if [ "$shards" -gt 1 ]; then
    c=$(SHARDS=$shards submit "$b" --array="0-$((shards - 1))" "$here/array.sbatch" "$sweep")
else
    c=$b
fi
d=$(submit "$c" "$here/sweep.sbatch" "$sweep")
e=$(submit "$d" --job-name=atelier-export --nodes=1 --ntasks=1 --output=%x-%j.log --time=01:00:00 \
    --wrap "'$ATELIER' export '$run/run.h5' --out '$run/pictures'")
echo "cache $a, train $b, sweep $c, join $d, export $e"
