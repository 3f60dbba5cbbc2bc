#!/usr/bin/env bash
# A sweep in shards: each runs alone or beside others, the plain command joins them, and the result is that of one run.
. tests/sweep/lib.sh
export OMP_NUM_THREADS=1
config "$T/s" >"$T/c.yaml"
check shards__reference "$A" sweep "$T/c.yaml" output="$T/r"

for i in 0 1 2 4; do "$A" sweep "$T/c.yaml" --shard $i/5 >"$T/$i.log" 2>&1 & done
"$A" sweep "$T/c.yaml" --shard=3/5 >"$T/3.log" 2>&1
wait
check shards__each_has_its_part test "$(ls -d "$T"/s/shards/*/parts | wc -l)" -eq 5
check shards__no_run_file_yet test ! -e "$T/s/run.h5"
check shards__again_renders_nothing grep -q " 0 of them" <("$A" sweep "$T/c.yaml" --shard 2/5 2>&1)
check shards__join grep -q "all 24 images were done" <("$A" sweep "$T/c.yaml" 2>&1)
check shards__same_as_one_run same_images "$T/r" "$T/s"
check shards__leave_nothing test ! -e "$T/s/shards" -a ! -e "$T/s/parts"
check shards__after_the_join grep -q " 0 of them" <("$A" sweep "$T/c.yaml" --shard 1/5 2>&1)

# A missing shard, and one that was killed: the plain command renders the rest.
config "$T/m" 6 >"$T/m.yaml"
"$A" sweep "$T/m.yaml" output="$T/m6" >/dev/null 2>&1
"$A" sweep "$T/m.yaml" --shard 0/2 batch=1 >/dev/null 2>&1 &
pid=$!
wait_for_image "$T/m" $pid 2
refused shards__join_waits_for_them 1 "in use by another run" "$A" sweep "$T/m.yaml"
kill -9 $pid
wait $pid 2>/dev/null
check shards__rest_is_rendered "$A" sweep "$T/m.yaml"
check shards__rest_is_the_same same_images "$T/m6" "$T/m"

refused shards__bad_number 2 "expected I/N" "$A" sweep "$T/c.yaml" --shard 5/5
refused shards__bad_text 2 "expected I/N" "$A" sweep "$T/c.yaml" --shard 2
refused shards__no_value 2 "needs a value" "$A" sweep "$T/c.yaml" --shard
refused shards__other_sweep 1 "holds another sweep" "$A" sweep "$T/m.yaml" --shard 0/2 steps=3
exit $((fails > 0))
