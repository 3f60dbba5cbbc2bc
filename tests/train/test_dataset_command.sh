#!/usr/bin/env bash
# atelier dataset: what it says about folders with everything in them; and what a LoRA file says of the images it was trained on.
. tests/train/lib.sh
make_data
make_mixed_data
cp "$TMP/data/bar.png" "$TMP/mixed/1_thing/same as bar.png"
head -c 300 "$TMP/data/bar.png" >"$TMP/mixed/1_thing/broken.png"
yes word | head -n 90 | tr '\n' ' ' >"$TMP/mixed/1_thing/rgb.txt"
make_config "datasets: [{path: ../mixed, shuffle: true}, {path: ../data, is_reg: true}]" "bucket: {enabled: true, min: 8, max: 32, steps: 8}" "resolution: 24"
mkdir -p "$TMP/look"
cd "$TMP/look" || exit 1
look() { "$BIN" dataset "$@" >log 2>&1; code=$?; }
says() { check "says: $1" grep -qE "$1" log; }

look ../train.yaml
check "unreadable files: exit code 1" test $code -eq 1
says '^ +6 +2 +12 +\.\./mixed/2_sks sign$'
says '^ +12 +1 +[0-9]+ +\.\./data \(regularisation\)$'
says '^ +[0-9]+ +[0-9]+ +24 x 24$'
says '^ +[0-9]+ +[0-9]+ +16 x 32$'
says '^duplicates +1$'
says 'same as bar.png = .*/data/bar.png'
says 'over 75, where the rest is cut off: 2$'
says 'mixed/1_thing/rgb.*: 9[0-9] tokens'
says '^unreadable +1$'
says 'broken.png: PNG: chunk at byte .* is truncated'
says 'atelier: 1 image cannot be read'
check "contact sheet is a PNG" test "$(head -c 4 out/dataset.png | tail -c 3)" = PNG
cp out/dataset.png first.png
look ../train.yaml --tiles 3
check "fewer tiles, a smaller sheet" test "$(stat -c %s out/dataset.png)" -lt "$(stat -c %s first.png)"
rm "$TMP/mixed/1_thing/broken.png"
look ../train.yaml --sheet here.png
check "all readable: exit code 0" test $code -eq 0
look ../train.yaml --no-sheet "model=$ROOT/models/base"
says 'over 30, where the rest is cut off' # that text encoder has 32 positions
check "--sheet" test -s here.png
look ../mixed --no-sheet
check "a folder alone" test $code -eq 0
check "--no-sheet" test ! -e dataset.png
look "$ROOT/datasets/core/art.h5" --no-sheet resolution=64 --show 1
says 'and [0-9]+ more'
look nothing
check "no such folder: exit code 1" test $code -eq 1
says 'atelier: nothing: no such dataset'
look
check "no argument: exit code 2" test $code -eq 2
look --help
says '^usage: atelier dataset CONFIG'

cd "$ROOT" || exit 1
run meta steps=2 lora.rank=1
header() { python3 - "$TMP/meta/out/lora.safetensors" "$1" <<'PY'
import json, struct, sys
with open(sys.argv[1], "rb") as f:
    m = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))["__metadata__"]
sys.exit(not eval(sys.argv[2], {"m": m, "j": lambda k: json.loads(m[k])}))
PY
}
check "ss_dataset_dirs" header 'j("ss_dataset_dirs")["2_sks sign"] == {"n_repeats": 2, "img_count": 6}'
check "ss_reg_dataset_dirs" header 'list(j("ss_reg_dataset_dirs")) == ["data"]'
check "ss_tag_frequency" header 'j("ss_tag_frequency")["2_sks sign"] == {"a {red|blue|green} man": 6, "standing": 6, "alone": 6, "small": 6}'
check "ss_bucket_info" header 'sum(b["count"] for b in j("ss_bucket_info")["buckets"].values()) == 56 and j("ss_bucket_info")["mean_img_ar_error"] > 0'
check "ss_datasets" header 'j("ss_datasets")[0]["subsets"][-1]["is_reg"] and j("ss_datasets")[0]["num_train_images"] == 28'
check "ss_enable_bucket" header 'm["ss_enable_bucket"] == "True" and m["ss_max_bucket_reso"] == "32" and m["ss_keep_tokens"] == "0"'
finish
