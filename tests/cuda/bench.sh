#!/usr/bin/env bash
# The benchmarks of a GPU run from end to end on the smallest shapes, on the emulated device. BENCH_GPU names the program.
cd "$(dirname "$0")/../.." || exit 1
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
bad=0
result() { # NAME STATUS
    if [ "$2" -eq 0 ]; then echo "ok bench: $1"; else echo "not ok bench: $1"; bad=1; fi
}
OUT=$out/results PEER=0 benchmarks/gpu.sh tiny >"$out/table" 2>"$out/log"
result "gpu.sh runs" $?
tail -n 3 "$out/log" | sed 's/^/# /'
rows() { grep -cE "^$1 .*[0-9.]+ +[0-9.]+ +[0-9.]+%" "$out/table"; }
[ "$(rows attention)" -eq 10 ] && [ "$(rows conv)" -eq 15 ] && [ "$(rows linear)" -eq 10 ] && [ "$(rows '(group|layer) norm')" -eq 10 ] &&
    [ "$(rows 'adamw,?')" -eq 3 ] && [ "$(grep -cE '^(SD 1.5|SDXL|LoRA) .*%' "$out/table")" -eq 5 ]
result "every kernel and network has its row" $?
! grep -qiE 'nan|inf' "$out/table"
result "every number is one" $?
# What Python measures bears the same names.
cut -f 2 <(grep -P '^(flop|byte|net)\t' "$out"/results/*.txt) | grep -vE 'with copies|exact sum|sum of squares|noise and|rounded' | while read -r name; do
    case $name in
    attention* | conv* | linear* | *norm*) name=$(sed -E 's/^(attention|conv|linear \+ LoRA|linear|group norm \+ silu|layer norm)( data| weight)?( gradient)? //' <<<"$name") ;;
    LoRA*) name="batch {batch}" ;;
    esac
    grep -qF -- "$name" benchmarks/gpu_peer.py || echo "$name"
done >"$out/missing"
[ ! -s "$out/missing" ]
result "PyTorch's part has the same names" $?
sed 's/^/# /' "$out/missing"
exit $bad
