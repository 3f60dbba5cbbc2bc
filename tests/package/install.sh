#!/usr/bin/env bash
# make install and dist, man pages, completion, module files: what a packager takes.
. tests/sweep/lib.sh
check install__works make --no-print-directory install DESTDIR="$T/root" PREFIX=/opt/atelier
R=$T/root/opt/atelier
check install__program "$R/bin/atelier" --version
for c in atelier atelier-train atelier-sweep atelier-submit; do
    check "install__man_$c" test -s "$R/share/man/man1/$c.1.gz"
done
check install__page_of_every_command test "$(ls "$R"/share/man/man1 | wc -l)" -eq "$("$A" help | grep -cE '^  [a-z]+ +[A-Za-z]')"
check install__pages_are_plain_text test -z "$(zcat "$R"/share/man/man1/*.gz | LC_ALL=C grep -n "[^[:print:][:space:]]")"
check install__keys_are_in_the_page grep -q 'micro_batch .*images per forward pass' <(zcat "$R/share/man/man1/atelier-train.1.gz")
if command -v man >/dev/null && command -v groff >/dev/null; then
    check install__pages_are_well_formed test -z "$(for f in "$R"/share/man/man1/*.gz; do LC_ALL=C.UTF-8 MANROFFSEQ= MANWIDTH=200 man --warnings -E UTF-8 -l -Tutf8 -Z "$f" 2>&1 >/dev/null; done)"
fi
check install__relocatable test -z "$(grep -rlF "$PWD" "$R/share" || true)"
check install__scripts bash -n "$R/share/atelier/slurm/train.sbatch"
check install__module_file grep -q '"/opt/atelier"' "$R/share/atelier/modulefiles/"*.lua
check install__everything_is_used test "$(find "$T/root" -type f | wc -l)" -gt 40

complete_words() { # WORD...: what completion offers for the last one
    bash -c 'PATH=$1:$PATH; . packaging/atelier.bash; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _atelier; printf "%s\n" "${COMPREPLY[@]}"' - "$R/bin" "$@" 2>/dev/null
}
check completion__commands grep -qx sweep <(complete_words atelier sw)
check completion__options grep -qx -- --shard <(complete_words atelier sweep --sh)
check completion__keys grep -qx "lora.rank=" <(complete_words atelier train lora.ra)
check completion__job_keys grep -qx "job.nodes=" <(complete_words atelier submit job.no)

check dist__works make --no-print-directory dist
V=$("$A" --version | awk '{print $2}')
check dist__has_the_sources test "$(tar tzf "build/atelier-$V.tar.gz" | grep -c "^atelier-$V/src/")" -gt 100
exit $((fails > 0))
