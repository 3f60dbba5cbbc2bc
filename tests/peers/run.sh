#!/usr/bin/env bash
# Round trips with diffusers, transformers, peft, h5py and PIL. TAP lines, then counts; exit code 1 when a check fails.
#   tests/peers/run.sh [lora|training|full|base|files|sweep]...      all parts by default
# PEER_PYTHON names a Python that has them (python3); ATELIER_BIN another binary. The part `full` makes about 9 GB of random
# full-size models in build/peers once.
set -u
cd "$(dirname "$0")/../.." || exit 1
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
export TRANSFORMERS_VERBOSITY=error DIFFUSERS_VERBOSITY=error PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore
python=${PEER_PYTHON:-python3}
if ! "$python" -c 'import torch, diffusers, transformers, peft, safetensors, h5py, PIL' 2>/dev/null; then
    echo "skip peers: $python lacks torch, diffusers, transformers, peft, safetensors, h5py or PIL (set PEER_PYTHON)"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
mkdir -p build/peers
log=build/peers/tap.log
: >"$log"
for part in ${@:-files lora training sweep base full}; do
    "$python" "tests/peers/check_$part.py" | tee -a "$log"
    [ "${PIPESTATUS[0]}" -eq 0 ] || grep -q '^not ok' "$log" || echo "not ok $part: the script failed" | tee -a "$log"
done
passed=$(grep -c '^ok ' "$log") failed=$(grep -c '^not ok ' "$log") skipped=$(grep -c '^skip ' "$log")
[ -n "${TEST_TALLY:-}" ] && echo "$passed $failed $skipped" >>"$TEST_TALLY"
echo "$passed passed, $failed failed$([ "$skipped" -gt 0 ] && echo ", $skipped skipped")"
[ "$failed" -eq 0 ]
