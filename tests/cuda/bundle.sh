#!/usr/bin/env bash
# build/gpu runs in a root that holds glibc and nothing else: no MPI, no HDF5, no CUDA.
cd "$(dirname "$0")/../.." || exit 1
bad=0
root=$(mktemp -d) || exit 1
trap 'rm -rf "$root"' EXIT
result() { # NAME STATUS
    if [ "$2" -eq 0 ]; then echo "ok bundle: $1"; else echo "not ok bundle: $1"; bad=1; fi
}
cp -r build/gpu "$root/gpu"
ldd "$root/gpu/bin/ops" | grep -oE '/[^ ]*/(ld-linux[^ ]*|lib(c|m|dl|rt|pthread)\.so\.[0-9]+)' | sort -u | while read -r f; do
    mkdir -p "$root$(dirname "$f")" && cp -L "$f" "$root$f"
done
export LD_LIBRARY_PATH=/gpu/lib # $ORIGIN needs /proc
enter=chroot
[ "$(id -u)" = 0 ] || enter="unshare -r chroot"
if ! $enter "$root" /gpu/bin/wrappers device >/dev/null 2>"$root/log" && ! grep -q 'no CUDA device' "$root/log"; then
    sed 's/^/# /' "$root/log"
    echo "skip bundle: chroot is not allowed here"
    exit 0
fi
for p in build/gpu/bin/*; do
    # A program that finds no device says so; one that finds no library ends with 127 before main.
    $enter "$root" "/gpu/bin/$(basename "$p")" >"$root/log" 2>&1
    code=$?
    [ $code -ne 127 ] && grep -qiE 'CUDA' "$root/log"
    result "$(basename "$p") starts with glibc alone" $?
done
unset LD_LIBRARY_PATH
if ! build/gpu/bin/wrappers device >/dev/null 2>&1; then
    TEST_TALLY='' build/gpu/check_gpu.sh >"$root/log" 2>&1
    code=$?
    [ $code -eq 0 ] && grep -q '^no CUDA device: nothing was run$' "$root/log" && tail -n 1 "$root/log" | grep -qE '^0 passed, 0 failed, [1-9][0-9]* skipped$'
    result "without a GPU nothing is run, and it is said" $?
    ! TEST_TALLY='' REQUIRE_GPU=1 build/gpu/check_gpu.sh >/dev/null 2>&1
    result "REQUIRE_GPU=1 makes that an error" $?
fi
exit $bad
