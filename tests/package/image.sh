#!/usr/bin/env bash
# The image's steps (packaging/image.sh, as the Dockerfile runs them) in bare Debian roots, and the same bytes from the program in it, started
# by mpirun and by hand. With IMAGE=1 (make check-image) the program is compiled whole in there, and once more with the CUDA compiler that is
# here, in the place of NVIDIA's packages. Without, what includes no library's header is taken from the build outside, where the compiler is
# the same: what the root lacks, in headers, libraries or tools, shows all the same.
command -v mmdebstrap >/dev/null && [ "$(id -u)" = 0 ] || { echo "skip image: needs root and mmdebstrap (make check-package installs it)"; exit 0; }
[ -n "${IMAGE_NS:-}" ] || IMAGE_NS=1 exec unshare -m bash "$0" # mounts end with the script
. tests/train/lib.sh
[ "$(awk '/MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)" -lt 8 ] || mount -t tmpfs none "$TMP" # a third of the time
base=$TMP/base run=$TMP/run
trap 'umount -R "$base/usr/local/cuda" "$base/proc" "$run/proc" 2>/dev/null; umount "$TMP" 2>/dev/null; rm -rf --one-file-system "$TMP"' EXIT
step() { # NAME ROOT STEP [VARIABLE=VALUE...]
    local start=$SECONDS name=$1
    cp packaging/image.sh "$2/usr/local/bin/"
    if chroot "$2" env "${@:4}" /usr/local/bin/image.sh "$3" >"$TMP/step-$3.log" 2>&1; then ok "$name"; else not_ok "$name" "$(tail -n 5 "$TMP/step-$3.log")"; fi
    echo "# $name: $((SECONDS - start)) s"
}
slim=(--dpkgopt=force-unsafe-io) # and what Debian's slim images leave out
for d in doc man info locale groff lintian; do slim+=("--dpkgopt=path-exclude=/usr/share/$d/*"); done
check "image: a bare root" mmdebstrap --variant=minbase --include=ca-certificates "${slim[@]}" bookworm "$base"
echo "# image: a bare root: $SECONDS s"
cp /etc/resolv.conf "$base/etc/" 2>/dev/null
for f in /etc/apt/apt.conf /etc/apt/apt.conf.d/*proxy* /etc/apt/sources.list /etc/apt/sources.list.d/*; do [ -f "$f" ] && cp --parents "$f" "$base"; done
cp -a "$base" "$run"
for r in "$base" "$run"; do mount -t proc proc "$r/proc"; done
step "image: run-deps" "$run" run-deps >"$TMP/run-deps" & # beside the other
step "image: build-deps" "$base" build-deps
wait $!
cat "$TMP/run-deps"
step "image: user" "$run" user

mkdir -p "$base/src"
git ls-files -z --cached --others --exclude-standard -- Makefile README.md src kernels configs docs slurm cloud packaging tests/deps.sh | xargs -0 cp -a --parents -t "$base/src"
cp "$BIN" "$TMP/atelier" && BIN=$TMP/atelier # another build may replace it meanwhile
commit=$("$BIN" --version | sed 's/.*(\(.*\))/\1/')
mapfile -t libs < <(grep -rlE '#include <(hdf5|mpi|png|jpeglib|jerror|zlib|webp/.*|dnnl|oneapi/.*|lapacke|cairo.*|pango/.*|yaml|jansson|openssl/.*|curl/.*|pcre2|utf8proc)\.h>' src --include=*.c)
if [ -z "${IMAGE:-}" ] && [ "$(gcc --version)" = "$(chroot "$base" gcc --version)" ]; then
    find build/release/src build/release/commit -name '*.[od]' -o -name commit | xargs cp -a --parents -t "$base/src"
    for f in "${libs[@]}"; do rm "$base/src/build/release/${f%.c}".*o; done
fi
step "image: build" "$base" build COMMIT="$commit"
for f in "${libs[@]}"; do grep -qF "CC $f" "$TMP/step-build.log" || echo "$f"; done >"$TMP/taken"
check "image: all that uses a library was compiled there" test ! -s "$TMP/taken" -a ${#libs[@]} -gt 30
cp -a "$base/image/." "$run/"
inside() { chroot --userspec=1000:1000 "$run" env HOME=/home/atelier PATH=/usr/bin:/bin OMP_WAIT_POLICY=passive OMPI_MCA_rmaps_base_oversubscribe=1 \
    OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_btl_vader_single_copy_mechanism=none bash -c "cd /data/$1 && ${*:2}"; }
mkdir -p "$run"/data/{one,two,three}
check "image: starts" inside "" atelier --version
make_data
cp -r "$MODEL" "$TMP/model"
MODEL=../model
make_config
straight calm
cp -r "$TMP/data" "$TMP/model" "$TMP/train.yaml" "$run/data/"
chown -R 1000:1000 "$run/data"
check "image: trains as a user" inside one atelier train ../train.yaml
check "image: trains on two ranks" inside two mpirun -np 2 atelier train ../train.yaml
for n in one two; do check "image: same bytes ($n)" same calm "run/data/$n" $(results calm); done
echo "# $(du -xsm "$run" | cut -f1) MB in all, $(du -sm "$run/usr/bin/atelier" | cut -f1) MB of it the program"

nvcc=$(command -v nvcc)
if [ -n "${IMAGE:-}" ] && [ -n "$nvcc" ]; then
    mkdir -p "$base/usr/local/cuda"
    mount --bind -o ro "$(realpath "$(dirname "$(realpath "$nvcc")")/..")" "$base/usr/local/cuda"
    step "image: build with CUDA" "$base" build COMMIT="$commit" CUDA=13-0
    cp -a "$base/image/." "$run/"
    check "image with CUDA: starts without a GPU, cuBLAS and NCCL" inside "" atelier info
    check "image with CUDA: has kernels" grep -q "sm_80 sm_90 sm_100\|^GPUs .*driver" <(inside "" atelier info)
    check "image with CUDA: same bytes" inside three "atelier train ../train.yaml && cmp out/lora.safetensors ../one/out/lora.safetensors"
fi
finish
