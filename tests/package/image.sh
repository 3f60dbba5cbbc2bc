#!/usr/bin/env bash
# The image's steps (packaging/image.sh, as the Dockerfile runs them) in bare Debian roots, and the same bytes from the program in it, started
# by mpirun and by hand. Slow: only with IMAGE=1 (make check-image).
. tests/train/lib.sh
[ -n "${IMAGE:-}" ] || { echo "skip image: only with make check-image"; exit 0; }
command -v mmdebstrap >/dev/null && [ "$(id -u)" = 0 ] || { echo "skip image: needs root and mmdebstrap"; exit 0; }
step() { # NAME ROOT STEP
    cp packaging/image.sh "$2/usr/local/bin/"
    local start=$SECONDS
    check "$1" chroot "$2" /usr/local/bin/image.sh "$3"
    echo "# $1: $((SECONDS - start)) s"
}
check "image: a bare root" mmdebstrap --variant=minbase --include=ca-certificates bookworm "$TMP/base"
cp /etc/resolv.conf "$TMP/base/etc/" 2>/dev/null
for f in /etc/apt/apt.conf /etc/apt/apt.conf.d/*proxy* /etc/apt/sources.list /etc/apt/sources.list.d/*; do [ -f "$f" ] && cp --parents "$f" "$TMP/base"; done
echo force-unsafe-io >"$TMP/base/etc/dpkg/dpkg.cfg.d/test"
cp -a "$TMP/base" "$TMP/run"
for r in base run; do mount --bind /dev "$TMP/$r/dev" && mount -t proc proc "$TMP/$r/proc"; done
trap 'for r in base run; do umount "$TMP/$r/dev" "$TMP/$r/proc" 2>/dev/null; done; rm -rf "$TMP"' EXIT
step "image: build-deps" "$TMP/base" build-deps
mkdir -p "$TMP/base/src"
git ls-files -z --cached --others --exclude-standard -- Makefile README.md src kernels configs docs slurm cloud packaging tests/deps.sh | xargs -0 cp --parents -t "$TMP/base/src"
COMMIT=$("$BIN" --version | sed 's/.*(\(.*\))/\1/') step "image: build" "$TMP/base" build
step "image: run-deps" "$TMP/run" run-deps
step "image: user" "$TMP/run" user
cp -a "$TMP/base/image/." "$TMP/run/"
inside() { chroot --userspec=1000:1000 "$TMP/run" env HOME=/home/atelier PATH=/usr/bin:/bin OMP_WAIT_POLICY=passive OMPI_MCA_rmaps_base_oversubscribe=1 \
    OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_btl_vader_single_copy_mechanism=none bash -c "cd /data/$1 && ${*:2}"; }
mkdir -p "$TMP/run/data/one" "$TMP/run/data/two"
check "image: starts" inside "" atelier --version
make_data
cp -r "$MODEL" "$TMP/model"
MODEL=../model
make_config
straight calm
cp -r "$TMP/data" "$TMP/model" "$TMP/train.yaml" "$TMP/run/data/"
chown -R 1000:1000 "$TMP/run/data"
check "image: trains as a user" inside one atelier train ../train.yaml
check "image: trains on two ranks" inside two mpirun -np 2 atelier train ../train.yaml
for n in one two; do check "image: same bytes ($n)" same calm "run/data/$n" $(results calm); done
echo "# $(du -xsm "$TMP/run" | cut -f1) MB in all, $(du -sm "$TMP/run/usr/bin/atelier" | cut -f1) MB of it the program"
finish
