#!/usr/bin/env bash
# Looking at a finished run: ls, show, export, sheet, gallery, reproduce, lock, diff. One sweep of 8 images serves all.
. tests/sweep/lib.sh
export OMP_NUM_THREADS=1

cat >"$T/a.yaml" <<END
model: tests/vectors/sd15-tiny
output: $T/a
steps: 1
size: [16, 16]
axes:
  prompt: ["a red fox", "</script><img src=x onerror=document.title=1> \"two\", é"]
  lora: [none, {name: ink, path: tests/vectors/lora/lora_attn_te.kohya.safetensors, scale: 0.8}]
  guidance: [1, 7]
END
check look__sweep "$A" sweep "$T/a.yaml"
R=$T/a/run.h5
lines() { [ "$("${@:2}" | wc -l)" = "$1" ]; } # COUNT COMMAND...
says() { local text=$1; shift; "$@" 2>&1 | grep -qF -- "$text"; }

# ls
check ls__all lines 9 "$A" ls "$R"
check ls__where lines 3 "$A" ls "$R" --where "cfg=7 and lora='ink'"
check ls__where_none lines 5 "$A" ls "$R" --where "lora = none"
check ls__where_like lines 5 "$A" ls "$R" --where "prompt like '*FOX*'"
check ls__where_size_and_record lines 9 "$A" ls "$R" --where "size = '16x16' and dtype = 'f32' and steps < 2"
check ls__columns says "index	cfg" "$A" ls "$R" --columns index,cfg
check ls__csv says '"</script><img src=x onerror=document.title=1> ""two"", é"' "$A" ls "$R" --csv --columns prompt --where "index=7"
check ls__json bash -c "'$A' ls '$R' --json --columns=index,lora,cfg,prompt | python3 -c 'import json, sys
rows = [json.loads(line) for line in sys.stdin]
assert len(rows) == 8 and rows[7][\"cfg\"] == 7 and rows[7][\"lora\"] == \"ink:0.8\" and rows[7][\"prompt\"].startswith(\"</script>\"), rows'"
refused ls__unknown_column 1 "did you mean 'lora'" "$A" ls "$R" --columns lorra
refused ls__unknown_name 1 "did you mean 'lora'" "$A" ls "$R" --where "lorra = 1"
refused ls__bad_condition 1 "--where" "$A" ls "$R" --where "cfg = "
refused ls__no_run_file 1 "a.yaml" "$A" ls "$T/a.yaml"
refused ls__usage 2 "run.h5" "$A" ls

# show
check show__run says "a red fox" "$A" show "$R"
check show__image says "pixels_sha256" "$A" show "$R#3" -o "$T/three.png"
check show__writes_the_picture cmp "$T/three.png" "$T/a/png/000003.png"
check show__file says "Steps: 1, Sampler:" "$A" show "$T/three.png"
refused show__range 1 "0..7" "$A" show "$R#8"
refused show__usage 2 "number" "$A" show "$R" -o "$T/x.png"

# export
check export__shards "$A" export "$R" --out "$T/e" --shard 4
check export__same_bytes cmp "$T/e/0001/000006.png" "$T/a/png/000006.png"
for f in jpeg webp; do
    check "export__$f" "$A" export "$R" --where "cfg=7 and lora='ink'" --format $f --quality 80 --out "$T/$f"
    file=$(find "$T/$f" -type f | sort | head -n 1)
    check "export__${f}_has_texts" says "[parameters]" "$A" show "$file"
    check "export__${f}_is_reproduced" says identical "$A" reproduce "$file"
    check "export__${f}_count" lines 2 find "$T/$f" -type f
done
check export__lossless "$A" export "$R" --format webp --lossless --out "$T/l"
check export__lossless_is_exact says "nothing differs" "$A" diff "$T/l/0000/000005.webp" "$R#5"
refused export__format 2 "png, jpeg or webp" "$A" export "$R" --format gif --out "$T/x"
refused export__lossless_png 2 "--lossless" "$A" export "$R" --lossless --out "$T/x"

# sheet
check sheet__png "$A" sheet "$R" --rows prompt --columns lora,cfg --title "é" --out "$T/s.png"
check sheet__same_bytes bash -c "'$A' sheet '$R' --rows prompt --columns lora,cfg --title 'é' --out '$T/s2.png' && cmp '$T/s.png' '$T/s2.png'"
check sheet__pdf bash -c "'$A' sheet '$R' --out '$T/s.pdf' && head -c 5 '$T/s.pdf' | grep -q %PDF-"
check sheet__hidden says "4 of 8 images are behind others" "$A" sheet "$R" --rows prompt --columns lora --out "$T/x.png"
check sheet__where says "2 x 1" "$A" sheet "$R" --where "lora=none and prompt like '*fox'" --out "$T/x.png"
refused sheet__nothing 1 "no image" "$A" sheet "$R" --where "cfg = 3" --out "$T/x.png"

# reproduce: all of a run; weights that moved, by hash
check reproduce__run says "8 images: 8 identical" "$A" reproduce "$R"
cp -rL tests/vectors/sd15-tiny "$T/model"
mkdir "$T/moved"
cp tests/vectors/lora/lora_attn_te.kohya.safetensors "$T/moved/other-name.safetensors"
sed "s#tests/vectors/sd15-tiny#$T/model#; s#tests/vectors/lora/lora_attn_te.kohya.safetensors#$T/ink.safetensors#; s#$T/a#$T/m#" "$T/a.yaml" >"$T/m.yaml"
cp "$T/moved/other-name.safetensors" "$T/ink.safetensors"
check reproduce__sweep_to_move bash -c "'$A' sweep '$T/m.yaml'"
mv "$T/model" "$T/moved/somewhere"
rm "$T/ink.safetensors"
refused reproduce__moved 1 "is not there" "$A" reproduce "$T/m/png/000007.png"
check reproduce__found_by_hash says identical "$A" reproduce "$T/m/png/000007.png" --models "$T/moved"
printf 'X' | dd of="$T/moved/other-name.safetensors" bs=1 seek=$(($(stat -c %s "$T/moved/other-name.safetensors") - 2)) conv=notrunc status=none
refused reproduce__changed_is_named 1 "in none of the folders" "$A" reproduce "$T/m/png/000007.png" --models "$T/moved"
check reproduce__config_only says 'guidance: 7' "$A" reproduce "$R#7" --config-only

# other programs' pictures
python3 - "$T" <<'END'
import struct, sys, zlib
def chunk(kind, body): return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
def png(path, key, text):
    pixels = b"".join(b"\0" + bytes([9, 99, 199]) * 16 for _ in range(16))
    open(path, "wb").write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)) +
                           chunk(b"tEXt", key.encode() + b"\0" + text.encode("latin-1")) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b""))
t = sys.argv[1]
png(t + "/a1111.png", "parameters", "a fox <lora:lora_attn_te.kohya:0.5>\nNegative prompt: mud\nSteps: 2, Sampler: Euler a, CFG scale: 4, Seed: 5, Size: 16x16, Model: sd15-tiny, ENSD: 3, Token merging ratio: 0.5")
png(t + "/comfy.png", "prompt", '{"1": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 2, "cfg": 4, "sampler_name": "euler", "scheduler": "karras", "denoise": 1, "model": ["2", 0], "positive": ["3", 0], "negative": ["4", 0], "latent_image": ["5", 0]}}, "2": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15-tiny.safetensors"}}, "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["2", 1]}}, "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["2", 1]}}, "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 16, "height": 16, "batch_size": 1}}, "6": {"class_type": "VAEDecode", "inputs": {"samples": ["1", 0], "vae": ["2", 2]}}, "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0]}}}')
png(t + "/bad.png", "prompt", "{")
END
check foreign__a1111_config says 'seed: 5' "$A" reproduce "$T/a1111.png" --config-only
check foreign__a1111_numbers says 'ensd: 3' "$A" reproduce "$T/a1111.png" --config-only
check foreign__a1111_lost says 'Token merging ratio: 0.5' "$A" reproduce "$T/a1111.png" --config-only
check foreign__a1111_renders says "PSNR" "$A" reproduce "$T/a1111.png" --models tests/vectors -o "$T/again.png"
check foreign__config_can_be_swept bash -c "'$A' reproduce '$T/a1111.png' --models tests/vectors --config-only >'$T/f.yaml' && '$A' sweep '$T/f.yaml' output='$T/f'"
check foreign__swept_is_the_same bash -c "'$A' diff '$T/again.png' '$T/f/png/000000.png' | grep -c pixels | grep -qx 0"
check foreign__comfy_config says 'sampler: "euler"' "$A" reproduce "$T/comfy.png" --config-only
refused foreign__no_model 1 "--model" "$A" reproduce "$T/comfy.png"
refused foreign__damaged 1 "text 'prompt'" "$A" reproduce "$T/bad.png"

# lock
cp "$T/moved/other-name.safetensors" "$T/ink.safetensors"
sed "s#tests/vectors/lora/lora_attn_te.kohya.safetensors#$T/ink.safetensors#" "$T/a.yaml" >"$T/k.yaml"
refused lock__missing 1 "there is no" "$A" sweep --locked "$T/k.yaml" output="$T/k"
check lock__writes "$A" lock "$T/k.yaml"
check lock__has_all bash -c "grep -q 'unet/' '$T/k.yaml.lock' && grep -q 'ink.safetensors' '$T/k.yaml.lock' && ! grep -q '$T/a/' '$T/k.yaml.lock'"
check lock__matches "$A" lock --check "$T/k.yaml"
check lock__other_output_matches "$A" lock --check "$T/k.yaml" output="$T/elsewhere"
refused lock__other_setting 1 "configuration changed" "$A" sweep --locked "$T/k.yaml" output="$T/k" steps=2
cp "$T/k.yaml.lock" "$T/old.lock"
cp tests/vectors/lora/lora_attn_te.kohya.safetensors "$T/ink.safetensors"
refused lock__changed_file 1 "ink.safetensors changed" "$A" sweep --locked "$T/k.yaml" output="$T/k"
check lock__refused_before_any_work test ! -e "$T/k"
"$A" lock "$T/k.yaml" >/dev/null
refused lock__lora_that_is_not_there 1 "key 'axes.lora.1.path': there is no $T/gone.safetensors" "$A" lock "$T/k.yaml" "axes.lora=[none, {path: $T/gone.safetensors}]"
refused lock__source_that_is_not_there 1 "key 'source': there is no $T/gone.png" "$A" lock "$T/k.yaml" "source=$T/gone.png"
refused lock__check_of_what_is_gone 1 "key 'model': there is no $T/gone" "$A" lock --check "$T/k.yaml" "model=$T/gone"
check lock__nothing_on_an_axis bash -c "cp '$T/k.yaml' '$T/n.yaml' && '$A' lock '$T/n.yaml' 'axes.vae=[none, tests/vectors/sd15-tiny/vae]'"
refused lock__diff 1 "ink.safetensors changed" "$A" diff "$T/old.lock" "$T/k.yaml.lock"

# diff
refused diff__images 1 "guidance: 1 -> 7" "$A" diff "$T/a/png/000000.png" "$R#1"
refused diff__pixels 1 "PSNR" "$A" diff "$T/a/png/000000.png" "$R#4"
refused diff__configs 1 "output: $T/a -> $T/m" "$A" diff "$T/a.yaml" "$T/m.yaml"
check diff__same says "nothing differs" "$A" diff "$T/a" "$R"
refused diff__kinds 2 "is a run" "$A" diff "$T/a.yaml" "$R"

# gallery
check gallery__writes "$A" gallery "$R" --out "$T/g" --thumb 64
check gallery__is_self_contained bash -c "! grep -rIE '(https?:)?//[a-z]' '$T/g' --include=*.html --include=*.css --include=*.js | grep -v '^[^:]*:\s*//'"
check gallery__data_is_ascii bash -c "! LC_ALL=C grep -rlP '[^\x00-\x7F]' '$T/g/data'"
check gallery__picture cmp "$T/g/images/0000/000002.png" "$T/a/png/000002.png"
check gallery__where bash -c "'$A' gallery '$R' --out '$T/g2' --where 'cfg = 7' --format webp && test \$(find '$T/g2/images' -name '*.webp' | wc -l) = 4"
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
if [ -n "$browser" ] && [ -z "${NO_BROWSER:-}" ]; then
    dom() { # URL: the page after its scripts ran
        timeout 120 "$browser" --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir="$T/chrome" --window-size=1100,700 \
            --virtual-time-budget=3000 --dump-dom "$1" 2>/dev/null
    }
    dom "file://$T/g/index.html#c=0,7" >"$T/dom.html"
    check gallery__opens_from_disk grep -q '8 images' "$T/dom.html"
    check gallery__shows_all test "$(grep -o 'class="cell' "$T/dom.html" | wc -l)" = 8
    check gallery__texts_are_escaped bash -c "grep -q '&lt;img src=x' '$T/dom.html' && ! grep -q '<img src=\"*x' '$T/dom.html'"
    check gallery__compares bash -c "test \$(grep -o 'class=\"pane\"' '$T/dom.html' | wc -l) = 2 && grep -q 'class=\"differs\"><th>guidance' '$T/dom.html'"
    # 20,000 images: columns alone, to see that only what is in sight is in the page.
    python3 - "$T/g/data/index.js" <<'END'
import json, sys
n = 20000
run = {"name": "many", "n": n, "chunk": 256, "extension": ".png", "index": list(range(n)), "thumb": {"side": 64, "each": 100, "across": 10},
       "columns": [{"name": "index", "numbers": list(range(n))}, {"name": "prompt", "values": ["a", "b"], "codes": [k % 2 for k in range(n)]},
                   {"name": "seed", "numbers": [k // 2 for k in range(n)]}]}
open(sys.argv[1], "w").write("GALLERY.start(" + json.dumps(run) + ");")
END
    dom "file://$T/g/index.html#f=prompt=b" >"$T/dom.html"
    check gallery__many_filters grep -q '10000 of 20000 images' "$T/dom.html"
    cells=$(grep -o 'class="cell' "$T/dom.html" | wc -l)
    check gallery__many_in_sight test "$cells" -gt 50 -a "$cells" -lt 400
else
    echo "skip gallery__in_a_browser (no chromium)"
fi
for c in ls show sheet gallery lock diff; do
    check "help__$c" bash -c "'$A' help $c | grep -q '^usage: ' && '$A' $c --help | grep -q '^usage: '"
done
exit $((fails > 0))
