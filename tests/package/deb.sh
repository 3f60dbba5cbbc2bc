#!/usr/bin/env bash
# dpkg-buildpackage works, and what it makes can be unpacked and run; lintian finds nothing where it is installed. With DEB=1 (make
# check-image) all is compiled once more, else the objects that are here are used and the kernels left out.
. tests/sweep/lib.sh
[ -n "${DEB:-}" ] || export REUSE=1 CUDA=0
command -v dpkg-buildpackage >/dev/null && command -v dh >/dev/null || { echo "skip deb: dpkg-dev and debhelper are not installed"; exit 0; }
check deb__builds packaging/deb.sh
deb=$(ls build/deb/atelier_*.deb 2>/dev/null | head -n 1)
check deb__unpacks dpkg-deb -x "${deb:-none}" "$T/root"
check deb__runs grep -q "^atelier $("$A" --version | awk '{print $2}')" <("$T/root/usr/bin/atelier" --version)
check deb__has_man_pages test -s "$T/root/usr/share/man/man1/atelier-train.1.gz"
check deb__has_its_licences grep -q "^License: OFL-1.1" "$T/root/usr/share/doc/atelier/copyright"
! command -v lintian >/dev/null || check deb__lintian lintian --allow-root --fail-on error,warning "${deb:-none}"
check deb__knows_its_libraries grep -q libdnnl <(dpkg-deb -f "${deb:-none}" Depends)
exit $((fails > 0))
