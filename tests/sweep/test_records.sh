#!/usr/bin/env bash
# Records that hold everything: textual inversions, noise settings, VAEs, sources; prompts that look like syntax; A1111's AND.
. tests/sweep/lib.sh

python3 - "$T" <<'END'
import json, struct, sys
width = json.load(open("tests/vectors/sd15-tiny/text_encoder/config.json"))["hidden_size"]
def embedding(path, by):
    data = struct.pack(f"<{2 * width}f", *[by * ((i * 37) % 19 - 9) / 100 for i in range(2 * width)])
    head = json.dumps({"emb_params": {"dtype": "F32", "shape": [2, width], "data_offsets": [0, len(data)]}}).encode()
    open(path, "wb").write(struct.pack("<Q", len(head)) + head + data)
embedding(sys.argv[1] + "/my cat.safetensors", 1)
embedding(sys.argv[1] + "/dog.safetensors", 2)
END
cat >"$T/a.yaml" <<EOF
model: tests/vectors/sd15-tiny
output: $T/a
size: [32, 32]
steps: 3
sampler: euler
spacing: karras
negative: '"quoted", {2\$\$a|b}'
seed_compat: a1111-gpu
s_churn: 3
ensd: 31337
eta: 0.5
rho: 5
embeddings: ["$T/my cat.safetensors", "$T/dog.safetensors"]
axes:
  prompt: ["a {b|c}  My  Cat \${x} __y__, # no", plain, "a fox AND (two cats:1.2) :0.6 AND a house"]
  sampler: [euler, ddim]
sheet: {enabled: false}
EOF
info() { "$A" show "$T/a/png/$1" 2>&1; }
says() { local text=$1; shift; "$@" 2>&1 | grep -qF -- "$text"; }
check records__sweep "$A" sweep "$T/a.yaml"
check records__reproduced says '6 images: 6 identical' "$A" reproduce "$T/a/run.h5"
check records__png_reproduced says identical "$A" reproduce "$T/a/png/000000.png"
check records__inversion_in_use says '"my cat"' info 000000.png
check records__other_inversions_are_left_out bash -c "! '$A' show '$T/a/png/000000.png' | grep -q dog"
check records__no_inversion bash -c "! '$A' show '$T/a/png/000002.png' | grep -q embeddings"
check records__a1111_inversion says 'TI hashes: "my cat: ' info 000000.png
check records__a1111_noise says 'Schedule type: Karras' info 000002.png
check records__a1111_numbers says 'Eta: 0.5, ENSD: 31337, Schedule rho: 5, Sigma churn: 3' info 000002.png
check records__a1111_eta_of_ddim says 'Eta DDIM: 0.5' info 000003.png
hash_of() { h5dump -d meta/pixels_sha256 "$1/run.h5" | grep -o '"[0-9a-f]*"' | sed -n "$2p"; }
check records__churn_off "$A" sweep "$T/a.yaml" output="$T/n" s_churn=0
check records__churn_changes_euler test "$(hash_of "$T/a" 3)" != "$(hash_of "$T/n" 3)"
check records__churn_leaves_ddim test "$(hash_of "$T/a" 4)" = "$(hash_of "$T/n" 4)"
cp "$T/dog.safetensors" "$T/my cat.safetensors"
refused records__changed_inversion 1 "my cat.safetensors is another file" "$A" reproduce "$T/a/png/000000.png"
check records__others_do_not_mind says identical "$A" reproduce "$T/a/png/000002.png"

# Embeddings as torch saves them.
check embeddings__pt bash -c "'$A' sweep '$T/a.yaml' output='$T/pt' embeddings='[tests/vectors/embeddings/a1111.pt, tests/vectors/embeddings/learned_embeds.bin]' 'axes={prompt: [an a1111, a fox, a <cat-toy>]}'"
check embeddings__pt_is_seen test "$(h5dump -d meta/pixels_sha256 "$T/pt/run.h5" | grep -o '"[0-9a-f]\{64\}"' | sort -u | wc -l)" = 3
check embeddings__pt_reproduced says '3 images: 3 identical' "$A" reproduce "$T/pt/run.h5"
refused embeddings__code_is_not_run 1 "posix getcwd" "$A" sweep "$T/a.yaml" output="$T/no" 'embeddings=[tests/vectors/embeddings/calls.pt]'

# AND: parts of weight 0 change nothing, halves make a whole; images do not depend on the batch they share with others.
cat >"$T/and.yaml" <<EOF
model: tests/vectors/sd15-tiny
output: $T/and
size: [32, 32]
steps: 2
sampler: ddim
negative: blurry
prompt_rules: a1111
axes: {prompt: [two cats, "a fox AND two cats :0", "two cats : 0 AND a house:0 AND two cats :0 AND a fox", "a fox AND two cats"]}
sheet: {enabled: false}
EOF
check and__sweep "$A" sweep "$T/and.yaml"
check and__batch_1 "$A" sweep "$T/and.yaml" batch=1 output="$T/and1"
check and__same_in_any_batch same_set meta/pixels_sha256 "$T/and/run.h5" "$T/and1/run.h5"
check and__weight_0 test "$(hash_of "$T/and" 2)" = "$(hash_of "$T/and" 3)"
check and__two_parts test "$(hash_of "$T/and" 1)" != "$(hash_of "$T/and" 4)"
refused and__needs_guidance 1 "AND needs a guidance above 1" "$A" sweep "$T/and.yaml" guidance=1 output="$T/and2"

# Image k of a batch of ComfyUI's.
cat >"$T/b.yaml" <<EOF
model: tests/vectors/sd15-tiny
output: $T/b
size: [32, 32]
steps: 2
sampler: euler_a
prompt: two cats
seed_compat: comfyui
batch_size: 3
axes: {batch_index: [0, 1, 2]}
sheet: {enabled: false}
EOF
check batch__sweep "$A" sweep "$T/b.yaml"
check batch__images_differ test "$(h5dump -d meta/pixels_sha256 "$T/b/run.h5" | grep -o '"[0-9a-f]\{64\}"' | sort -u | wc -l)" = 3
check batch__reproduced says '3 images: 3 identical' "$A" reproduce "$T/b/run.h5"
refused batch__index_too_large 1 "batch_index 2: expected 0..batch_size - 1" "$A" sweep "$T/b.yaml" batch_size=2 output="$T/b2"
refused batch__other_programs 1 "only ComfyUI draws" "$A" sweep "$T/b.yaml" seed_compat=a1111-gpu output="$T/b3"

# The plan knows long prompts and AND.
check plan__prompts says 'prompts of 2 chunks' "$A" plan "$T/b.yaml" 'axes={prompt: [a BREAK b, a AND b]}' batch_size=0 seed_compat=a1111-cpu
check plan__and says 'AND: 2 runs per call' "$A" plan "$T/b.yaml" 'axes={prompt: [a BREAK b, a AND b]}' batch_size=0 seed_compat=a1111-cpu
check plan__models says 'tests/vectors/sd21-tiny: 1 images' "$A" plan "$T/b.yaml" 'axes={model: [tests/vectors/sd15-tiny, tests/vectors/sd21-tiny]}' batch_size=0

exit $((fails > 0))
