# Sourced: adds the folders of cuBLAS and NCCL to LD_LIBRARY_PATH where the loader does not find them by itself: with the toolkit, or with
# Python's packages.
find_library() { # PATTERN FOLDER IN nvidia/...
    local dir site
    ldconfig -p 2>/dev/null | grep -q "$1" && return
    site=$(python3 -c 'import site, sysconfig; print(*site.getsitepackages(), sysconfig.get_paths()["purelib"])' 2>/dev/null | tr ' ' '\n' | sort -u)
    for dir in /usr/local/cuda/lib64 /usr/local/cuda*/lib64 $(for d in $site; do ls -d "$d"/nvidia/cu1?/lib "$d/nvidia/$2/lib" 2>/dev/null; done); do
        if ls "$dir" 2>/dev/null | grep -q "$1"; then
            export LD_LIBRARY_PATH=$dir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
            return
        fi
    done
}
find_library '^.*libcublas\.so\.1[1-9]' cublas
find_library '^.*libnccl\.so\.2' nccl
