#!/usr/bin/env bash
# Sweeps of one process: results, batches, interruption, refusals, and the commands around them.
. tests/sweep/lib.sh

config "$T/a" >"$T/a.yaml"
check sweep__runs "$A" sweep "$T/a.yaml"
check sweep__writes_all_files test -s "$T/a/run.h5" -a -s "$T/a/sheet.png" -a -s "$T/a/sweep.yaml" -a -s "$T/a/png/000023.png"
check sweep__leaves_no_parts clean_folder "$T/a"
check sweep__run_file_is_read_by_h5dump h5dump -H "$T/a/run.h5"
check sweep__same_images_with_batch_1 bash -c "'$A' sweep '$T/a.yaml' output='$T/b' batch=1 threads=1 keep=0"
check sweep__batch_1_is_the_same same_images "$T/a" "$T/b"
check sweep__same_images_with_batch_7 bash -c "'$A' sweep '$T/a.yaml' output='$T/b7' batch=7"
check sweep__batch_7_is_the_same same_images "$T/a" "$T/b7"

# A finished sweep is left alone; lost PNGs and sheets come back.
before=$(stat -c %Y.%s "$T/a/run.h5")
rm "$T/a/png/000004.png" "$T/a/sheet.png"
check sweep__finished_run_again "$A" sweep "$T/a.yaml"
check sweep__finished_run_is_kept test "$before" = "$(stat -c %Y.%s "$T/a/run.h5")"
check sweep__lost_files_come_back same_images "$T/a" "$T/b"

# run.h5 of virtual datasets, and made self-contained afterwards.
check sweep__virtual "$A" sweep "$T/a.yaml" output="$T/v" join=virtual queue=1
check sweep__virtual_is_the_same_to_readers bash -c "'$A' export '$T/v/run.h5' '$T/ve' --shard 0 && diff -r '$T/a/png' '$T/ve'"
check sweep__virtual_keeps_its_parts each_once "$T/v" 24
check sweep__virtual_is_read_by_h5dump bash -c "h5dump -p -H '$T/v/run.h5' | grep -q 'VIRTUAL' && h5dump -d images -s 23,0,0,0 -c 1,1,8,3 '$T/v/run.h5' >/dev/null"
check sweep__virtual_finished_run_again "$A" sweep "$T/a.yaml" output="$T/v" join=virtual
check consolidate__runs "$A" consolidate "$T/v/run.h5" -o "$T/c.h5"
mv "$T/v/parts" "$T/v/gone"
refused sweep__virtual_without_parts 1 "belongs beside it" "$A" reproduce "$T/v/run.h5#3"
for d in images latents meta/record meta/row grid/shape; do check "consolidate__same_$d" same_set $d "$T/a/run.h5" "$T/c.h5"; done

# SIGTERM and SIGUSR1: exit code 3, nothing lost.
config "$T/s" 12 >"$T/s.yaml" # slow enough to be stopped three times
"$A" sweep "$T/s.yaml" output="$T/sr" >"$T/s.log" 2>&1
for sig in TERM USR1 INT; do
    count=$(stored "$T/s")
    "$A" sweep "$T/s.yaml" batch=1 >"$T/s.log" 2>&1 &
    pid=$!
    wait_for_image "$T/s" $pid $count
    kill -$sig $pid
    wait $pid
    rc=$?
    if [ $rc -eq 3 ] && grep -q "stopped by SIG$sig" "$T/s.log" && grep -q "of 24 images are done" "$T/s.log"; then ok "sweep__stops_on_$sig"
    else bad "sweep__stops_on_$sig" "exit $rc: $(cat "$T/s.log")"; fi
done
# A damaged part: what can be read is kept, the others are rendered again.
part=$(ls "$T/s"/parts/*.h5 | head -n 1)
head -c 700 "$part" >"$T/cut" && cp "$T/cut" "$part"
"$A" sweep "$T/s.yaml" >"$T/s.log" 2>&1
check sweep__damaged_part_is_reported grep -q "rendered again" "$T/s.log"
rm -rf "$T/s/parts"
check sweep__stopped_run_is_the_same same_images "$T/sr" "$T/s"

# One output folder, one run.
config "$T/l" 40 >"$T/l.yaml"
"$A" sweep "$T/l.yaml" batch=1 >"$T/l.log" 2>&1 &
pid=$!
wait_for_image "$T/l" $pid
refused sweep__locked_folder_is_refused 1 "in use by another run" "$A" sweep "$T/l.yaml"
kill -9 $pid
wait $pid 2>/dev/null
refused sweep__other_configuration_is_refused 1 "steps: 40" "$A" sweep "$T/l.yaml" steps=2
cp -rL tests/vectors/sd15-tiny "$T/model"
sed "s#tests/vectors/sd15-tiny#$T/model#" "$T/l.yaml" >"$T/m.yaml"
"$A" sweep "$T/m.yaml" output="$T/m" batch=1 >"$T/m.log" 2>&1 &
pid=$!
wait_for_image "$T/m" $pid
kill -TERM $pid
wait $pid 2>/dev/null
weights=$T/model/vae/diffusion_pytorch_model.safetensors
printf 'X' | dd of="$weights" bs=1 seek=$(($(stat -c %s "$weights") - 2)) conv=notrunc status=none
refused sweep__changed_model_is_refused 1 "the model changed" "$A" sweep "$T/m.yaml" output="$T/m" batch=1

# Reproduction from records.
check reproduce__png "$A" reproduce "$T/a/png/000007.png"
check reproduce__run_file "$A" reproduce "$T/a/run.h5#22"
refused reproduce__other_model 1 "is another model" "$A" reproduce "$T/a/png/000007.png" --model tests/vectors/sd21-tiny
refused reproduce__missing_model 1 "is not there" "$A" reproduce "$T/a/png/000007.png" --model "$T/none"
refused reproduce__no_record 1 "no record" "$A" reproduce "$T/a/sheet.png"
refused reproduce__index_out_of_range 1 "0..23" "$A" reproduce "$T/a/run.h5#24"
refused reproduce__bad_index 2 "number of an image" "$A" reproduce "$T/a/run.h5#x"
refused reproduce__no_run_file 1 "" "$A" reproduce tests/vectors/sd15-tiny/model_index.json

# The small commands.
check export__writes_pngs "$A" export "$T/a/run.h5" "$T/e" --shard 0
check export__same_as_the_sweep diff -r "$T/a/png" "$T/e"
check score__run_file bash -c "'$A' score '$T/a/run.h5' | grep -q '^te:0.8 .* 12 '"
check score__folder_is_the_same cmp <("$A" score "$T/a/run.h5") <("$A" score "$T/a/png")
check sample__runs "$A" sample tests/vectors/sd15-tiny "a fox" -o "$T/one.png" --lora tests/vectors/lora/lora_attn_te.kohya.safetensors:0.5 steps=2 "size=[16,16]"
check sample__can_be_reproduced "$A" reproduce "$T/one.png"
check plan__counts bash -c "'$A' plan '$T/a.yaml' | grep -q '24 images = prompt 2 x seed 3 x lora 2 x guidance 2, 8 batches'"
check tokenize__ids bash -c "'$A' tokenize tests/vectors/sd15-tiny 'two cats' | grep -q '^1237 3989'"
check info__runs "$A" info
check version__is_printed bash -c "'$A' --version | grep -q '^atelier '"
for c in train sweep plan sample reproduce export consolidate score tokenize info; do
    check "help__$c" bash -c "'$A' help $c | grep -q '^usage: ' && '$A' $c --help | grep -q '^usage: '"
done

# Bad input: 1 for a bad configuration or file, 2 for a bad command line; nothing is written.
edit() { sed "$1" "$T/a.yaml" >"$T/x.yaml"; } # SED
try() { # NAME TEXT [SED]
    edit "${3:-s/x/x/}"
    refused "bad__$1" 1 "$2" "$A" sweep "$T/x.yaml" output="$T/x"
}
try unknown_key "did you mean 'steps'" 's/^steps:/stepz:/'
try not_yaml "x.yaml:" 's/^axes:/axes: [/'
try unknown_sampler "sampler" 's/^sampler: .*/sampler: rk45/'
try odd_size "multiples of 2" 's/^size: .*/size: [33, 24]/'
try too_large "lower batch or size" 's/^size: .*/size: [16000, 16000]/'
try no_model "nowhere" 's#^model: .*#model: tests/vectors/nowhere#'
try missing_lora "none.safetensors" 's#lora_attn_te.kohya#none#'
try sheet_axis "no axis 'prompts'" 's/rows: \[prompt,/rows: [prompts,/'
try no_values "without values" 's/^  prompt: .*/  prompt: []/'
refused bad__no_config_file 1 "nofile.yaml" "$A" sweep "$T/nofile.yaml"
refused bad__override 1 "key 'stepz'" "$A" sweep "$T/a.yaml" stepz=3
check bad__wrote_nothing test ! -e "$T/x/run.h5" -a ! -e "$T/x/parts"
refused usage__no_command 2 "usage:" "$A"
refused usage__unknown_command 2 "did you mean 'sweep'" "$A" sweeep
refused usage__no_config 2 "configuration file" "$A" sweep
refused usage__two_configs 2 "one configuration" "$A" sweep "$T/a.yaml" "$T/b.yaml"
refused usage__option 2 "--fast" "$A" sweep "$T/a.yaml" --fast
refused usage__sample 2 "prompt" "$A" sample tests/vectors/sd15-tiny
# Nothing can be written (a full disk, no more files, a file system turned read-only): the run waits and says so, and goes on when it
# can; told to stop meanwhile it keeps what is done.
begin() { "$A" sweep "$T/a.yaml" output="$1" batch=1 >"$T/f.log" 2>&1 & pid=$!; } # FOLDER
waits() { # TEXT: until the run says that it waits (or is gone)
    local i
    for i in $(seq 400); do grep -q "waits" "$T/f.log" 2>/dev/null && break; kill -0 $pid 2>/dev/null || break; sleep 0.1; done
    grep -q "$1: this rank waits until it can write" "$T/f.log"
}
ends() { wait $pid; test $? -eq "$1"; } # CODE
mkdir -p "$T/full"
limited() { # NAME OPTION MORE: a small file system, and the option that gives it more room
    mount -t tmpfs -o "$2" none "$T/full" 2>/dev/null || { echo "skip $1 (cannot mount)"; return; }
    begin "$T/full/o"
    check $1__waits waits "No space left on device"
    kill -TERM $pid
    ends 3 && ok $1__stops_with_3 || bad $1__stops_with_3 "$(cat "$T/f.log")"
    check $1__says_what_is_done grep -q "of 24 images are done; run the same command again" "$T/f.log"
    begin "$T/full/o"
    waits "" >/dev/null
    mount -o "remount,$3" "$T/full"
    ends 0 && ok $1__goes_on || bad $1__goes_on "$(cat "$T/f.log")"
    check $1__is_the_same same_images "$T/a" "$T/full/o"
    check $1__leaves_no_parts clean_folder "$T/full/o"
    umount "$T/full"
}
limited full_disk size=120k size=100m
limited no_more_files nr_inodes=14 nr_inodes=1000

if ${CC:-cc} -shared -fPIC -o "$T/readonly.so" tests/sweep/readonly.c -ldl; then
    export READONLY_FOLDER=$T/ro READONLY_WHEN=$T/readonly ASAN_OPTIONS=verify_asan_link_order=0:${ASAN_OPTIONS:-}
    export LD_PRELOAD=$T/readonly.so
    begin "$T/ro"
    unset LD_PRELOAD
    wait_for_image "$T/ro" $pid 3
    touch "$T/readonly"
    check read_only__waits waits "Read-only file system"
    kill -TERM $pid
    ends 3 && ok read_only__stops_with_3 || bad read_only__stops_with_3 "$(cat "$T/f.log")"
    check read_only__says_what_is_done grep -q "of 24 images are done; run the same command again" "$T/f.log"
    refused read_only__from_the_start 1 "Read-only file system" env LD_PRELOAD="$T/readonly.so" "$A" sweep "$T/a.yaml" output="$T/ro"
    rm "$T/readonly"
    n=$(stored "$T/ro")
    export LD_PRELOAD=$T/readonly.so
    begin "$T/ro"
    unset LD_PRELOAD
    wait_for_image "$T/ro" $pid $((n + 2))
    touch "$T/readonly"
    check read_only__waits_again waits "Read-only file system"
    touch "$T/ro/.run.h5.tmp-0123456789ab" "$T/ro/png/.000023.png.tmp-0123456789ab" # as of a write that failed, and could not be removed
    rm "$T/readonly"
    ends 0 && ok read_only__goes_on || bad read_only__goes_on "$(cat "$T/f.log")"
    check read_only__is_the_same same_images "$T/a" "$T/ro"
    check read_only__leaves_no_parts clean_folder "$T/ro"
else
    echo "skip read_only (no compiler)"
fi
exit $((fails > 0))
