#!/usr/bin/env bash
# dpkg-buildpackage works, and what it makes can be unpacked and run. Compiles everything once more: only with DEB=1 (make check-image).
. tests/sweep/lib.sh
[ -n "${DEB:-}" ] || { echo "skip deb: only with make check-image"; exit 0; }
command -v dpkg-buildpackage >/dev/null && command -v dh >/dev/null || { echo "skip deb: dpkg-dev and debhelper are not installed"; exit 0; }
check deb__builds packaging/deb.sh
deb=$(ls build/deb/atelier_*.deb 2>/dev/null | head -n 1)
check deb__unpacks dpkg-deb -x "${deb:-none}" "$T/root"
check deb__runs grep -q "^atelier $("$A" --version | awk '{print $2}')" <("$T/root/usr/bin/atelier" --version)
check deb__has_man_pages test -s "$T/root/usr/share/man/man1/atelier-train.1.gz"
check deb__knows_its_libraries grep -q libdnnl <(dpkg-deb -f "${deb:-none}" Depends)
exit $((fails > 0))
