# Sourced: adds the folder of cuBLAS to LD_LIBRARY_PATH where the loader does not find it by itself.
if ! ldconfig -p 2>/dev/null | grep -q 'libcublas\.so\.1[1-9]'; then
    for cublas_dir in /usr/local/cuda/lib64 /usr/local/cuda*/lib64 \
        $(python3 -c 'import site, sysconfig; print(*site.getsitepackages(), sysconfig.get_paths()["purelib"])' 2>/dev/null |
            tr ' ' '\n' | sort -u | while read -r d; do ls -d "$d"/nvidia/cu1?/lib "$d"/nvidia/cublas/lib 2>/dev/null; done); do
        if ls "$cublas_dir"/libcublas.so.1[1-9] >/dev/null 2>&1; then
            export LD_LIBRARY_PATH=$cublas_dir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
            break
        fi
    done
fi
