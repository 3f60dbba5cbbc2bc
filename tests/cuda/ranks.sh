#!/usr/bin/env bash
# Several ranks on emulated devices that add their gradients by the emulated NCCL: exact sums, the same LoRA on 1 to 4 ranks, and what happens when a
# rank does not come. SUMS and ATELIER_EMU name the programs.
cd "$(dirname "$0")/../.." || exit 1
. tests/train/lib.sh
EMU=$(realpath "${ATELIER_EMU:-build/release/emu/atelier}") || exit 1
SUMS=$(realpath "${SUMS:-build/release/emu/tests/sums}") || exit 1
export EMU_DEVICES=4

for n in 1 2 3 4; do
    EMU_LAZY=1 mpirun -np $n "$SUMS" >"$TMP/sums" 2>&1 || not_ok "sums: $n ranks" "$(tail -n 5 "$TMP/sums")"
    grep -E '^(ok|not ok) ' "$TMP/sums"
done

# A rank that stays away, at every place where it can.
lose() { # NAME RANKS FAULT WHAT IS SAID
    local code
    EMU_NCCL_FAULT=$3 timeout 120 mpirun -np "$2" "$SUMS" lose 2 >"$TMP/lost" 2>&1
    code=$?
    check "lost: $1: the job ends" test $code -eq 3
    check "lost: $1: rank and sum are named" grep -Eq "$4" "$TMP/lost"
    check "lost: $1: once" test "$(grep -c '^lost: ' "$TMP/lost")" -eq 1
}
lose "it never joins" 3 "1 absent" 'lost: all ranks arrived at the start, but it did not end within 2 s: the network or a GPU hangs'
lose "its stream hangs" 3 "2 stall 8" 'lost: rank 2 \(host [^ ]+\) did not arrive at the sum of step 3, bucket 2 within 2 s; 2 ranks wait there'
lose "that of rank 0 hangs" 2 "0 stall 6" 'lost: rank 0 \(host [^ ]+\) did not arrive at the sum of step 2, bucket 3 within 2 s; 1 rank waits there'
lose "NCCL reports an error" 3 "1 error 5" 'lost: rank 1 \(host [^ ]+\) could not go on at the sum of step 2(, bucket [12])?; its own message says why'
check "lost: NCCL reports an error: its message is there" grep -q "rank 1.*NCCL: .*remote process exited or there was a network error" "$TMP/lost"
check "lost: late, but in time" env EMU_NCCL_FAULT="1 late 5 0.5" timeout 120 mpirun -np 2 "$SUMS" lose 4

make_data
make_config "steps: 2" "batch: 2" "micro_batch: 1" "sum_bucket: 16KiB"
train() { # RANKS OUT [KEY=VALUE...]
    local ranks=$1 out=$2
    shift 2
    mkdir -p "$TMP/$out"
    (cd "$TMP/$out" && ATELIER_LOG=3 mpirun -np "$ranks" "$EMU" train ../train.yaml device=cuda "$@") >"$TMP/$out/log" 2>&1
}
check "training on one device" train 1 whole
for n in 2 3 4; do
    check "training on $n devices" train $n on$n
    check "training on $n devices: by NCCL" grep -q "gradients of the ranks are added by the GPUs by NCCL 2.18.0" "$TMP/on$n/log"
    check "training on $n devices: the same LoRA" cmp "$TMP/whole/out/lora.safetensors" "$TMP/on$n/out/lora.safetensors"
done
# Most buckets are on their way while the backward pass goes on.
early() { sed -nE 's/^([0-9]+) of ([0-9]+) sums set out before the last gradients.*/\1 \2/p' "$TMP/on2/log" | awk '{ok = $2 > 20 && $1 > $2 / 2} END {exit !ok}'; }
check "sums set out during the backward pass" early
check "training on 2 devices by MPI" train 2 mpi sum_by=mpi
check "training on 2 devices by MPI: said" grep -q "are added by MPI through the hosts' memory" "$TMP/mpi/log"
check "training on 2 devices by MPI: the same LoRA" cmp "$TMP/whole/out/lora.safetensors" "$TMP/mpi/out/lora.safetensors"

refused() { # WHY COMMAND...
    local why=$1
    shift
    ! "$@" && grep -Eq "$why" "$TMP/$out/log"
}
out=old
check "an old NCCL is not used" env EMU_NCCL_VERSION=21300 bash -c "$(declare -f train); TMP=$TMP EMU=$EMU; train 2 old steps=1 && grep -q 'NCCL 21300 is older than 2.14' $TMP/old/log"
EMU_NCCL_VERSION=21300 check "an old NCCL that is asked for is an error" refused "NCCL is asked for, but not there: .*older than 2.14" train 2 old sum_by=nccl
out=shared
EMU_UUID=same check "two ranks on one GPU are refused" refused "ranks 0 and 1 \(host [^ ]+\) have the same GPU, GPU-73616d65-.*: give each rank its own" \
    env CUDA_VISIBLE_DEVICES=0 EMU_DEVICES=1 bash -c "$(declare -f train); TMP=$TMP EMU=$EMU; train 2 shared"

# A GPU that hangs in the second step: the state after the first is saved, and a resume ends in the same bytes.
began=$SECONDS
EMU_NCCL_FAULT="1 stall 20" train 2 hung patience=12 checkpoint.every=100
code=$?
check "a GPU hangs: the job ends with code 1" test $code -eq 1 -a $((SECONDS - began)) -lt 300
check "a GPU hangs: named" grep -Eq "rank 1 \(host [^ ]+\) did not arrive at the sum of gradients of step 2, bucket 3 within 12 s; 1 rank waits there.*The state after step 1 is saved" "$TMP/hung/log"
check "a GPU hangs: saved" test "$(checkpoints hung)" = step-00000001.h5
check "a GPU hangs: resumed" train 3 hung --resume auto
check "a GPU hangs: the same LoRA" cmp "$TMP/whole/out/lora.safetensors" "$TMP/hung/out/lora.safetensors"
finish
