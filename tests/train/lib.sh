# Shared by the scripts that run ./atelier train: a temporary folder with a tiny dataset and a config, TAP lines, comparisons.
# Run from the project root. ATELIER_BIN may name another binary.
set -u
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_vader_single_copy_mechanism=none
export OMP_WAIT_POLICY=passive # several ranks share few cores here
export LC_ALL=C
ROOT=$PWD
BIN=$(realpath "${ATELIER_BIN:-./atelier}") || exit 1
TMP=$(mktemp -d) || exit 1
trap 'rm -rf "$TMP"' EXIT
MODEL=$ROOT/tests/vectors/sd15-tiny
bad=0

ok() { echo "ok $1"; }
not_ok() { # NAME WHY...
    bad=1
    echo "not ok $1"
    shift
    printf '# %s\n' "$@"
}
check() { # NAME COMMAND...
    local name=$1
    shift
    if "$@" >"$TMP/check.log" 2>&1; then ok "$name"; else not_ok "$name" "$*" "$(tail -n 5 "$TMP/check.log")"; fi
}
finish() { exit $bad; }
# The first of N ports in a row, from PORT on, where nothing listens on this machine.
free_ports() { # PORT N
    local port=$1 i=0
    while [ $i -lt "$2" ]; do
        if (exec 3<>"/dev/tcp/127.0.0.1/$((port + i))") 2>/dev/null; then port=$((port + i + 1)) i=0; else i=$((i + 1)); fi
    done
    echo $port
}

# 12 of the pictograms with their captions.
make_data() {
    mkdir -p "$TMP/data"
    local n=0 f
    for f in "$ROOT"/datasets/aiga/*.png; do
        [ -f "$f" ] || { not_ok "datasets/aiga is there"; exit 1; }
        [ $((n += 1)) -le 12 ] || break
        cp "$f" "${f%.png}.txt" "$TMP/data/"
    done
}

# kohya's folders: stick men with tags and alternatives, pictures of other shapes and kinds.
make_mixed_data() {
    local f
    mkdir -p "$TMP/mixed/2_sks sign" "$TMP/mixed/1_thing"
    for f in "$ROOT"/datasets/stickman/*.png; do
        cp "$f" "$TMP/mixed/2_sks sign/"
        echo "a {red|blue|green} man, standing, alone, small" >"$TMP/mixed/2_sks sign/$(basename "${f%.png}").txt"
    done
    cp "$ROOT"/tests/vectors/pictures/*.* "$TMP/mixed/1_thing/"
    rm "$TMP/mixed/1_thing/expect.txt"
}

make_config() { # [LINE...]: a config in $TMP/train.yaml for runs of about a second; a LINE replaces one with the same key
    cat >"$TMP/train.yaml" <<EOF
model: $MODEL
output: out
cache: ../cache
datasets: [{path: ../data}]
resolution: 16
batch: 4
micro_batch: 1
steps: 24
seed: 7
lora: {rank: 4}
optimizer: {lr: 2e-3, schedule: cosine, warmup: 3}
checkpoint: {every: 4, keep: 2}
EOF
    local line
    for line in "$@"; do
        sed -i "/^${line%%:*}:/d" "$TMP/train.yaml"
        echo "$line" >>"$TMP/train.yaml"
    done
}

# run DIR [ARGUMENT...]: trains in $TMP/DIR, with MPIRUN in front when set; the log is DIR/log. Paths in the config are relative to
# DIR, so that all runs have the same config text.
run() {
    local dir=$TMP/$1
    shift
    mkdir -p "$dir"
    (cd "$dir" && exec ${MPIRUN:-} "$BIN" train ../train.yaml "$@") >>"$dir/log" 2>&1 </dev/null
}
checkpoints() { ls "$TMP/$1/out/checkpoints" 2>/dev/null; }
last_checkpoint() { checkpoints "$1" | tail -n 1; }
# interrupt SIGNAL DIR [ARGUMENT...]: the same in the background until it has saved a checkpoint, then SIGNAL. $code: its exit code.
interrupt() {
    local signal=$1 dir=$2 before pid
    shift 2
    before=$(last_checkpoint "$dir")
    mkdir -p "$TMP/$dir"
    (cd "$TMP/$dir" && exec ${MPIRUN:-} "$BIN" train ../train.yaml "$@") >>"$TMP/$dir/log" 2>&1 </dev/null &
    pid=$!
    while [ "$(last_checkpoint "$dir")" = "$before" ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
    kill "-$signal" $pid 2>/dev/null
    wait $pid 2>/dev/null
    code=$?
}
same() { # A B FILE...: equal in both runs
    local a=$TMP/$1 b=$TMP/$2 f
    shift 2
    for f in "$@"; do cmp "$a/out/$f" "$b/out/$f" || return 1; done
}

# ---- same bytes ----
results() { # what a run leaves: NAME
    local f
    (cd "$TMP/$1/out" && ls loss.csv validation.csv lora.safetensors embedding.safetensors unet/* vae/* clip/* text_encoder/* 2>/dev/null)
    echo "checkpoints/$(last_checkpoint "$1")"
}
alike() { same "$1" "$2" $(results "$1"); }
straight() { # NAME
    if run "$1"; then ok "$1: straight run"; else not_ok "$1: straight run" "$(tail -n 3 "$TMP/$1/log")"; finish; fi
}
# On a loaded machine a run may have ended before the signal comes: then once more.
terminated() {
    local again
    for again in 1 2 3; do
        rm -rf "$TMP/$1-term"
        interrupt TERM "$1-term"
        [ $code -eq 0 ] || break
    done
    [ $code -eq 3 ] && ok "$1: SIGTERM stops with code 3" || not_ok "$1: SIGTERM stops with code 3" "code $code"
    check "$1: SIGTERM message" grep -q "stopped by SIGTERM after step" "$TMP/$1-term/log"
    run "$1-term"
    check "$1: SIGTERM and resume, same bytes" alike "$1" "$1-term"
}
killed() {
    local again
    for again in 1 2 3; do
        rm -rf "$TMP/$1-kill"
        interrupt KILL "$1-kill"
        [ $code -eq 0 ] || interrupt KILL "$1-kill"
        [ $code -eq 0 ] || break
    done
    [ $code -eq 137 ] && ok "$1: killed twice" || not_ok "$1: killed twice" "code $code"
    run "$1-kill"
    check "$1: resumed" grep -q "resumed at step" "$TMP/$1-kill/log"
    check "$1: kill -9 twice and resume, same bytes" alike "$1" "$1-kill"
    check "$1: no temporary files stay" test -z "$(find "$TMP/$1-kill/out" -name '*.tmp*')"
}
ranks() { # NAME N...
    local name=$1 n
    shift
    for n in "$@"; do
        MPIRUN="mpirun -np $n" run "$name-np$n"
        check "$name: $n ranks, same bytes" alike "$name" "$name-np$n"
    done
}
threads() {
    OMP_NUM_THREADS=1 run "$1-threads"
    check "$1: one thread, same bytes" alike "$1" "$1-threads"
}
