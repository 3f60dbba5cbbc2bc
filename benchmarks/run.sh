#!/usr/bin/env bash
# Speed and memory of whole networks at the size of Stable Diffusion 1.5 (860 M parameters, random weights, 512x512, guidance on),
# beside diffusers where PEER_PYTHON (python3) has it. Both programs run in turn, ROUNDS times; each time is the best of all runs.
#   benchmarks/run.sh [unet|vae|lora|render]...      RUNS=3 timed runs per process, ROUNDS=2, SIZE=512
# The table goes to standard output and, with all lines measured, to build/bench-results.txt.
set -u
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TRANSFORMERS_VERBOSITY=error
export DIFFUSERS_VERBOSITY=error PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore
bin=${BENCH_BIN:-build/release/benchmarks} work=${BENCH_WORK:-build/bench-models} out=${BENCH_OUT:-build/bench-results.txt}
runs=${RUNS:-3} rounds=${ROUNDS:-2} size=${SIZE:-512}
python=${PEER_PYTHON:-python3}
"$python" -c 'import torch, diffusers, peft' 2>/dev/null || python=
[ -n "$python" ] || echo "diffusers, peft not found: no comparison (set PEER_PYTHON)"

folder() { # DTYPE: the model folder, made when missing
    local dir=$work/sd15-$1
    if [ ! -f "$dir/ready" ]; then
        mkdir -p "$dir/tokenizer" && cp -r benchmarks/sd15/. "$dir/" && cp tests/vectors/sd15-tiny/tokenizer/* "$dir/tokenizer/" &&
            "$bin/bench_folder" "$dir" "$1" >&2 && touch "$dir/ready" || return 1
    fi
    cat "$dir"/*/*.safetensors >/dev/null # warm page cache
    echo "$dir"
}

all=$(mktemp)
trap 'rm -f "$all"' EXIT
measure() { # WHO PART DTYPE COMMAND...
    local who=$1 part=$2 dtype=$3
    shift 3
    if ! "$@" "$part" "$dtype" runs="$runs" size="$size" 2>"$all.err" | sed "s/^/$part $dtype $who /" >>"$all"; then
        echo "$who $part $dtype failed" >&2
    fi
    [ "${PIPESTATUS[0]}" -eq 0 ] || sed 's/^/  /' "$all.err" >&2
    rm -f "$all.err"
}

set -- "${@:-unet vae lora render}"
for part in $*; do
    for dtype in f32 bf16; do
        [ "$part $dtype" = "lora bf16" ] && continue
        dir=$(folder "$dtype") || { echo "cannot make $work/sd15-$dtype" >&2; exit 1; }
        for ((i = 0; i < rounds; i++)); do
            echo "measuring $part $dtype ($((i + 1))/$rounds)" >&2
            measure atelier "$part" "$dtype" "$bin/bench_model" "$dir"
            [ -z "$python" ] || measure diffusers "$part" "$dtype" "$python" benchmarks/peer.py "$dir"
        done
    done
done

table() {
    echo "$(uname -m), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores; load $(cut -d' ' -f1-3 /proc/loadavg) at the end"
    echo "commit $(git describe --always --dirty 2>/dev/null); $(date -u +%Y-%m-%d)"
    [ -z "$python" ] || "$python" -c 'import torch, diffusers, peft; print("torch", torch.__version__, "diffusers", diffusers.__version__, "peft", peft.__version__)'
    awk -v size="$size" '
    { k = $1 " " $2 " " $3 " " $4
      if ($4 ~ /gflops|peak_gflops|share/) { if (!(k in v) || $5 > v[k]) v[k] = $5 }
      else if ($4 ~ /^peak_rss/) { if (!(k in v) || $5 > v[k]) v[k] = $5 }
      else if (!(k in v) || $5 < v[k]) v[k] = $5 }
    function get(part, dtype, who, key) { return v[part " " dtype " " who " " key] }
    function line(what, part, dtype, key, goal,   a, b) {
        a = get(part, dtype, "atelier", key); b = get(part, dtype, "diffusers", key)
        if (a == "") return
        printf "%-34s %8.3f s %9s GFLOP/s %6s of peak", what, a, get(part, dtype, "atelier", part "_gflops"),
               get(part, dtype, "atelier", part "_share_of_peak") == "" ? "" : sprintf("%.0f %%", 100 * get(part, dtype, "atelier", part "_share_of_peak"))
        if (b != "") printf "   diffusers %8.3f s   %5.2fx", b, b / a
        printf "   target %s\n", goal }
    function plain(what, part, dtype, key, goal,   a, b) {
        a = get(part, dtype, "atelier", key); b = get(part, dtype, "diffusers", key)
        if (a == "") return
        printf "%-34s %8.2f %-33s", what, key ~ /rss/ ? a / 1024 : a, key ~ /rss/ ? "GiB" : "s"
        if (b != "") printf "   diffusers %8.2f %s        ", key ~ /rss/ ? b / 1024 : b, key ~ /rss/ ? "GiB" : "s"
        printf "   target %s\n", goal }
    END {
        for (i = 1; i <= 2; i++) { d = i == 1 ? "f32" : "bf16"
            for (p in names) delete names[p]
            best = 0
            split("unet vae lora", ps, " ")
            for (j = 1; j <= 3; j++) { x = get(ps[j], d, "atelier", "peak_gflops"); if (x + 0 > best) best = x + 0 }
            if (best) printf "matmul peak %-22s %8.1f GFLOP/s on %d threads\n", d, best, get("unet", d, "atelier", "threads") }
        line("denoising step " size ", guided, f32", "unet", "f32", "unet_seconds", "2.0x")
        line("denoising step " size ", guided, bf16", "unet", "bf16", "unet_seconds", "2.0x")
        line("VAE decode " size ", f32", "vae", "f32", "vae_seconds", "1.7x")
        line("VAE decode " size ", bf16", "vae", "bf16", "vae_seconds", "none")
        line("LoRA step rank 16, " size ", f32", "lora", "f32", "lora_seconds", "2.0x")
        plain("peak memory, rendering, f32", "render", "f32", "peak_rss_mib", "4.4 GiB")
        plain("peak memory, rendering, bf16", "render", "bf16", "peak_rss_mib", "2.4 GiB")
        plain("peak memory, LoRA step, f32", "lora", "f32", "peak_rss_mib", "5.0 GiB")
        plain("start to first step, f32", "render", "f32", "render_start_overhead_seconds", "1 s")
        plain("start to first step, bf16", "render", "bf16", "render_start_overhead_seconds", "1 s")
    }' "$all"
}
table | tee "$out"
{ echo; echo "all lines: part, dtype, program, key, value"; cat "$all"; } >>"$out"
