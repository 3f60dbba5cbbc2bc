#!/usr/bin/env bash
# Copies to FOLDER/lib what the programs in FOLDER/bin need beside glibc, and refuses what must not be needed on a machine with a GPU.
#   gpu_libs.sh FOLDER
cd "$1" || exit 1
rm -rf lib.new
mkdir lib.new
for p in bin/*; do
    ldd "$p" | awk '$2 == "=>" {print $1, $3}'
done | sort -u | while read -r name path; do
    case $name in
    libc.so.* | libm.so.* | libpthread.so.* | libdl.so.* | librt.so.*) ;;
    libmpi* | libhdf5* | libdnnl* | libcuda.* | libcublas* | libnccl*)
        echo "build/gpu: a program needs $name: $(for p in bin/*; do ldd "$p" | grep -q "$name" && echo "$p"; done | tr '\n' ' ')" >&2
        exit 1
        ;;
    *) cp -pL "$path" lib.new/ || exit 1 ;;
    esac
done || exit 1
rm -rf lib
mv lib.new lib
