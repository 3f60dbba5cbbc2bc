#!/usr/bin/env bash
# ./atelier as `make` built it, with kernels by nvcc or without: it needs no driver and no CUDA library to start, and says what it has.
cd "$(dirname "$0")/../.." || exit 1
. tests/train/lib.sh
no_libraries() { ! ldd ./atelier | grep -qE 'libcuda|libcudart|libcublas|libnccl'; }
check "program: no CUDA library is linked" no_libraries
check "program: info has a line of GPUs" sh -c './atelier info | grep -q "^GPUs"'
if ./atelier info | grep -qE '^GPUs +(none|built)'; then
    ./atelier sample "$MODEL" fox -o "$TMP/a.png" device=cuda >"$TMP/log" 2>&1 && not_ok "program: device=cuda is refused without a GPU"
    if ./atelier info | grep -q "built without"; then why="built without CUDA"; else why="no CUDA device"; fi
    check "program: device=cuda is refused without a GPU, with the reason" grep -q "$why" "$TMP/log"
    check "program: device=auto runs on the CPU" ./atelier sample "$MODEL" fox -o "$TMP/a.png" steps=1 size=[32,32] device=auto
fi
finish
