#!/bin/sh
# Builds the Debian package from the committed and changed files of the tree: build/deb/atelier_*.deb. The tree itself stays as it is.
# REUSE=1: with the objects of build/release where they are newer than their sources.
set -eu
version=$(sed -n 's/.*ATELIER_VERSION "\(.*\)".*/\1/p' src/base/version.h)
commit=$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
rm -rf build/deb
mkdir -p "build/deb/atelier-$version"
git ls-files -z --cached --others --exclude-standard -- Makefile README.md src kernels configs docs slurm cloud packaging debian tests/deps.sh |
    xargs -0 cp -a --parents -t "build/deb/atelier-$version"
[ -z "${REUSE:-}" ] || find build/release/src build/release/commit -name '*.[od]' -o -name commit | xargs cp -a --parents -t "build/deb/atelier-$version"
cd "build/deb/atelier-$version"
ATELIER_COMMIT=$commit dpkg-buildpackage -b -us -uc -d >../build.log 2>&1 || { tail -n 20 ../build.log >&2; exit 1; }
ls ../*.deb
