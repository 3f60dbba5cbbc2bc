#!/usr/bin/env bash
# Speed of the CUDA backend on this machine's GPU: per kernel the share of the device's peak, whole networks, LoRA training, beside PyTorch
# on the same GPU in the same run where PEER_PYTHON (python3) has it.
#   benchmarks/gpu.sh [kernels|nets|lora]... [tiny] [only=PART OF A NAME]
# Runs in this tree after `make gpu-bundle`, and in the folder build/gpu that it makes, on a machine without MPI and HDF5. The table goes to
# standard output and, with all lines measured, to DATE-GPU.txt in OUT (benchmarks/results). PEER=0: without PyTorch.
set -u
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore
for bin in ${BENCH_GPU:-bin/bench_gpu build/gpu/bin/bench_gpu}; do [ ! -x "$bin" ] || break; done
[ -x "$bin" ] || { echo "no $bin: make gpu-bundle" >&2; exit 1; }
out=${OUT:-benchmarks/results} python=${PEER_PYTHON:-python3}
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT
for f in cublas.sh tests/cuda/cublas.sh; do [ ! -f $f ] || . ./$f; done

"$bin" "$@" | tee "$lines" >&2
[ "${PIPESTATUS[0]}" -eq 0 ] || { echo "bench_gpu failed" >&2; exit 1; }
if [ "${PEER:-1}" = 0 ]; then
    printf 'info\tpeer\tnot asked for\n' >>"$lines"
elif ! why=$("$python" -c 'import torch; assert torch.cuda.is_available(), "PyTorch sees no GPU"' 2>&1); then
    printf 'info\tpeer\tabsent: %s\n' "$(tail -n 1 <<<"$why")" >>"$lines"
else
    "$python" benchmarks/gpu_peer.py "$@" | tee -a "$lines" >&2
    [ "${PIPESTATUS[0]}" -eq 0 ] || printf 'info\tpeer\tfailed before its end\n' >>"$lines"
fi

table() {
    echo "$(date -u +%Y-%m-%d), $(cat commit 2>/dev/null || echo "commit $(git describe --always --dirty 2>/dev/null)"), benchmarks/gpu.sh $*"
    case " $* " in *" tiny "*) echo "smallest shapes: only shows that the code works, the numbers mean nothing" ;; *) echo "targets are those for an H100" ;; esac
    awk -F'\t' '
    $1 == "info" { info[$2] = $3; infos[++ninfo] = $2; next }
    $1 == "peer" { peer[$2, $4] = $3; next }
    { rows[++n] = $0 }
    function verdict(share, target) { return target > 0 ? sprintf("%s %s", target_text, share >= target ? "met" : "MISSED") : "" }
    function beside(name, s,   text, k) { # both ways of PyTorch, and how many times as fast as the better one we are
        text = ""; best = 0
        for (k = 1; k <= 2; k++) {
            p = peer[name, k == 1 ? "eager" : "compile"]
            text = text sprintf(" %9s", p == "" ? "-" : sprintf("%.3f", p * 1e3))
            if (p != "" && (!best || p < best)) best = p
        }
        return text sprintf(" %7s", best ? sprintf("%.2fx", best / s) : "-")
    }
    function head(text, unit) { printf "\n%-48s %9s %9s %7s %7s %9s %9s %7s  %s\n", text, "ms", unit, unit == "1/s" ? "TFLOP/s" : "peak", unit == "GB/s" ? "" : unit == "1/s" ? "peak" : "cuBLAS", "eager ms", "compil ms", "faster", "target" }
    END {
        for (i = 1; i <= ninfo; i++) if (infos[i] !~ /^(peak|copy|gemm)$/) printf "%s: %s\n", infos[i], info[infos[i]]
        printf "bf16 peak %.1f TFLOP/s (data sheet), best cuBLAS product here %.1f TFLOP/s, copy %.1f GB/s (read and written)\n",
               info["peak"] / 1e12, info["gemm"] / 1e12, info["copy"] / 1e9
        split("flop byte net", kinds, " ")
        split("bound by arithmetic,bound by memory,networks", titles, ",")
        split("TFLOP/s,GB/s,1/s", units, ",")
        for (k = 1; k <= 3; k++) {
            started = 0
            for (i = 1; i <= n; i++) {
                split(rows[i], f, "\t")
                if (f[1] != kinds[k]) continue
                if (!started++) head(titles[k], units[k])
                s = f[3]
                printf "%-48s %9.3f", f[2], s * 1e3
                if (k == 1) {
                    rate = f[4] / s; share = rate / info["peak"]; target_text = sprintf("%.0f %%", 100 * f[5])
                    printf " %9.1f %6.1f%% %6.1f%%%s  %s\n", rate / 1e12, 100 * share, 100 * rate / info["gemm"], beside(f[2], s), verdict(share, f[5])
                    t = f[5]
                } else if (k == 2) {
                    rate = f[4] / s; share = rate / info["copy"]; target_text = sprintf("%.0f %%", 100 * f[5])
                    printf " %9.1f %6.1f%% %7s%s  %s\n", rate / 1e9, 100 * share, "", beside(f[2], s), verdict(share, f[5])
                    t = f[5]
                } else {
                    share = f[5] + 0; t = f[7]; target_text = sprintf("%s %s", t, f[6])
                    faster = beside(f[2], s)
                    if (f[2] ~ /^LoRA/) { # 1.5 times diffusers and peft
                        t = peer[f[2], "eager"] != "" ? 1.5 : 0; target_text = "1.5x"; share = best ? best / s : 0
                    }
                    printf " %9.2f %7.1f %6.1f%%%s  %s\n", f[5], f[4] / s / 1e12, 100 * f[4] / s / info["peak"], faster, verdict(share, t)
                }
                if (t > 0) { all[k]++; met[k] += share >= t }
            }
        }
        printf "\ntargets met: %d of %d bound by arithmetic, %d of %d bound by memory, %d of %d networks\n", met[1], all[1], met[2], all[2], met[3], all[3]
    }' "$lines"
}
name=$(awk -F'\t' '$2 == "device" {gsub(/[^A-Za-z0-9]+/, "-", $3); print $3}' "$lines")
mkdir -p "$out"
file=$out/$(date -u +%Y-%m-%d)-$name.txt
{ table "$@"; } | tee "$file"
{ printf '\nall lines\n'; cat "$lines"; } >>"$file"
echo "kept in $file" >&2
