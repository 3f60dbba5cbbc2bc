#!/usr/bin/env bash
# All tests of the CUDA backend on the GPU of this machine: each piece of PTX beside its emulated twin, the ops, the models. Copied by
# `make gpu-bundle` to build/gpu, which may be carried to another machine: that needs bash, a driver and cuBLAS, nothing else.
# The last line counts: "N passed, N failed". Without a GPU nothing is run and all is counted as skipped; REQUIRE_GPU=1 makes that an error.
cd "$(dirname "$0")" || exit 1
export WRAPPER_TWINS=$PWD/twins.bin

# cuBLAS lies with the toolkit or, where only PyTorch is, with its packages.
. ./cublas.sh
if ! device=$(bin/wrappers device 2>&1); then
    n=$(ls bin | grep -vc '^bench_')
    printf '%s\nno CUDA device: nothing was run\n0 passed, 0 failed, %d skipped\n' "$device" "$n"
    [ -z "${TEST_TALLY:-}" ] || echo "0 0 $n" >>"$TEST_TALLY"
    [ -z "${REQUIRE_GPU:-}" ]
    exit
fi
echo "$device; $(cat commit)"
exec tests/run.sh bin/wrappers $(ls -d bin/* | grep -vE '/(wrappers|bench_[a-z]*)$')
