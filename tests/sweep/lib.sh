# Shared by the scripts that run whole sweeps. TAP output: "ok NAME" / "not ok NAME".
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_vader_single_copy_mechanism=none OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
A=${ATELIER:-./atelier}
T=$(mktemp -d "${TMPDIR:-/tmp}/atelier-sweep-XXXXXX")
trap 'rm -rf "$T"' EXIT
fails=0

ok() { echo "ok $1"; }
bad() { echo "not ok $1"; [ -n "${2:-}" ] && printf '%s\n' "$2" | sed 's/^/# /'; fails=$((fails + 1)); }
check() { # NAME COMMAND...: passes when the command succeeds
    local name=$1 out
    shift
    if out=$("$@" 2>&1); then ok "$name"; else bad "$name" "$out"; fi
}
refused() { # NAME CODE TEXT COMMAND...: passes when the command exits with CODE and says TEXT
    local name=$1 code=$2 text=$3 out rc
    shift 3
    out=$("$@" 2>&1)
    rc=$?
    if [ $rc -eq "$code" ] && printf '%s' "$out" | grep -qF -- "$text"; then ok "$name"; else bad "$name" "exit $rc: $out"; fi
}

# 24 images of 32x24: two prompts, three seeds, without and with an adapter, guidance off and on.
config() { # OUTPUT [STEPS]
    cat <<EOF
model: tests/vectors/sd15-tiny
output: $1
steps: ${2:-2}
size: [32, 24]
batch: 3
sampler: euler_a
latents: true
axes:
  prompt: [a red fox, two cats]
  seed: {count: 3}
  lora: [none, {name: te, path: tests/vectors/lora/lora_attn_te.kohya.safetensors, scale: 0.8}]
  guidance: [1, 4]
sheet: {rows: [prompt, seed], columns: [lora, guidance], title: a test}
EOF
}

same_images() { # FOLDER FOLDER: PNGs (with their records), sheet, and run.h5's pixels and latents are the same bytes
    local d
    diff -r "$1/png" "$2/png" || return 1
    cmp "$1/sheet.png" "$2/sheet.png" || return 1
    for d in images latents meta/index meta/seed meta/guidance meta/prompt meta/lora meta/lora_hash meta/pixels_sha256 meta/record grid/shape; do
        cmp <(h5dump -d "$d" "$1/run.h5" | tail -n +2) <(h5dump -d "$d" "$2/run.h5" | tail -n +2) || return 1
    done
}
clean_folder() { # FOLDER: nothing of the work is left
    [ ! -e "$1/parts" ] && [ -z "$(find "$1" -name '*.tmp*')" ]
}
stored() { ls "$1"/png/*.png 2>/dev/null | wc -l; } # FOLDER: images that are safe for sure (a PNG is written after its image is saved)
wait_for_image() { # FOLDER PID [IMAGES]: until more than IMAGES are stored (or the process is gone)
    while [ "$(stored "$1")" -le "${3:-0}" ] && kill -0 "$2" 2>/dev/null; do sleep 0.02; done
}
each_once() { # FOLDER IMAGES: the parts hold each image once
    local p
    for p in "$1"/parts/*.h5; do
        h5dump -d meta/index -y -w 1 -o "$T/index.part" "$p" >/dev/null || return 1
        grep -o '[-0-9]\+' "$T/index.part"
    done | sort -n >"$T/index.txt"
    cmp "$T/index.txt" <(seq 0 $(($2 - 1)))
}
same_set() { # NAME FILE FILE: a dataset of two files is the same, and there
    h5dump -d "$1" "$2" | tail -n +2 >"$T/set.a" && h5dump -d "$1" "$3" | tail -n +2 >"$T/set.b" && [ -s "$T/set.a" ] && cmp "$T/set.a" "$T/set.b"
}
