#!/usr/bin/env bash
# Several machines as network namespaces with names and scratch folders of their own: mpirun over a hostfile gives the bytes of one process;
# a spot interruption saves to object storage, and the run goes on on other machines.
. tests/train/lib.sh
[ "$(id -u)" = 0 ] || { echo "skip hosts: needs root"; exit 0; }
command -v ip >/dev/null || { echo "skip hosts: ip is not installed"; exit 0; }
tag=a$$
net=10.77.$(($$ % 250))
for n in 1 2 3; do ip netns add $tag$n 2>/dev/null || { echo "skip hosts: no network namespaces here"; exit 0; }; done
cleanup() {
    kill -9 ${moto:-} 2>/dev/null
    for n in 1 2 3; do ip netns pids $tag$n 2>/dev/null | xargs -r kill -9 2>/dev/null; ip netns del $tag$n; done
    ip link del br$tag 2>/dev/null
    rm -rf "$TMP"
}
trap cleanup EXIT
trap 'exit 1' TERM INT
ip link add br$tag type bridge 2>/dev/null || { echo "skip hosts: no bridges here"; exit 0; }
ip addr add $net.254/24 dev br$tag && ip link set br$tag up
for n in 1 2 3; do
    ip link add v$tag$n type veth peer name e0 netns $tag$n
    ip link set v$tag$n master br$tag up
    ip -n $tag$n addr add $net.$n/24 dev e0
    ip -n $tag$n link set lo up
    ip -n $tag$n link set e0 up
    mkdir -p "$TMP/disk$n"
done
mkdir -p "$TMP/un"
# In the place of ssh: rsh.sh HOST COMMAND... runs it on that "machine", with a disk of its own at $TMP/un.
cat >"$TMP/rsh.sh" <<R
#!/bin/bash
h=\$1; shift
[[ \$h =~ ^$net\.([123])\$ ]] || { echo "no host \$h" >&2; exit 255; }
n=\${BASH_REMATCH[1]}
exec ip netns exec $tag\$n unshare -u -m bash -c "hostname m\$n; mount --bind $TMP/disk\$n $TMP/un; \$*"
R
chmod +x "$TMP/rsh.sh"
on() { # HOST-NUMBER COMMAND...
    local n=$1
    shift
    ip netns exec $tag$n unshare -u -m bash -c 'hostname m'$n'; mount --bind '"$TMP/disk$n $TMP/un"'; exec "$@"' - "$@"
}
MPI=(mpirun --mca plm rsh --mca plm_rsh_agent "$TMP/rsh.sh" --mca btl tcp,self --mca btl_tcp_if_include $net.0/24 --mca oob_tcp_if_include $net.0/24)
make_data
make_config "steps: 60" "checkpoint: {every: 5, keep: 2}"
straight calm
cd "$TMP" || exit 1

RSH=$TMP/rsh.sh "$ROOT/cloud/hostfile.sh" "$net.[1-2]" $net.9 >hosts 2>hosts.err
check "hosts: hostfile" diff hosts <(printf '%s slots=1\n' $net.1 $net.2)
check "hosts: who does not answer" grep -q "$net.9 does not answer" hosts.err
check "hosts: names from a list, more slots" diff <(echo "$net.3 # gpu" | RSH=$TMP/rsh.sh SLOTS=4 "$ROOT/cloud/hostfile.sh" -) <(echo "$net.3 slots=4")

mkdir -p two
(cd two && on 1 "${MPI[@]}" --hostfile ../hosts -np 2 "$ROOT/cloud/bind.sh" "$BIN" train ../train.yaml) >two/log 2>&1 || not_ok "hosts: two machines" "$(tail -n 5 two/log)"
check "hosts: two machines, same bytes" alike calm two
check "hosts: two machines indeed" grep -q "on 2 ranks" two/log
info=$(on 1 "${MPI[@]}" --hostfile hosts -np 2 "$ROOT/cloud/bind.sh" "$BIN" info 2>&1)
check "hosts: one rank on each" grep -q "ranks        2 (mpi), 1 on m1" <<<"$info"

# Machines that share nothing: $TMP/un is another disk on each. Rank 0 keeps the results.
mkdir -p un2 && sed -e 's|^output: .*|output: ../un/out|' -e 's|^cache: .*|cache: ../un/cache\ncache_scope: node|' train.yaml >un.yaml
(cd un2 && on 1 "${MPI[@]}" --hostfile ../hosts -np 2 "$BIN" train ../un.yaml) >un2/log 2>&1 &
pid=$!
i=1200; while [ -z "$(ls disk1/out/checkpoints 2>/dev/null)" ] && [ $((i -= 1)) -gt 0 ]; do sleep 0.1; done
kill -USR1 $(pgrep -P $pid -x mpirun || echo $pid) 2>/dev/null
wait $pid
check "unshared: stopped on the way" grep -q "stopped by SIGUSR1" un2/log
(cd un2 && on 1 "${MPI[@]}" --hostfile ../hosts -np 2 "$BIN" train ../un.yaml) >un2/log2 2>&1 || not_ok "unshared: goes on" "$(tail -n 5 un2/log2)"
check "unshared: resumed" grep -q "resumed at step" un2/log2
check "unshared: same LoRA" cmp calm/out/lora.safetensors disk1/out/lora.safetensors
check "unshared: the other machine got the checkpoint" test -n "$(ls disk2/out/checkpoints)"
check "unshared: caches on both" test -n "$(ls disk1/cache/*/*.h5)" -a -n "$(ls disk2/cache/*/*.h5)"

# Class images are made by both and kept by rank 0; the other machine gets them. A later one that has none gets them too.
boot="prompt: sks sign, class_prompt: a sign, count: 5, steps: 2, guidance: 3"
sed -e "\$ a dreambooth: {$boot}" -e 's/^steps: .*/steps: 6/' -e 's|^output: .*|output: ../un/boot|' -e 's|^cache: .*|cache: ../un/cache\ncache_scope: node|' \
    train.yaml >boot.yaml
mkdir -p boot && (cd boot && "$BIN" train ../boot.yaml) >boot/log 2>&1 && mv un/boot boot/out
class() { (cd un2 && on 1 "${MPI[@]}" --hostfile ../hosts -np 2 "$BIN" train ../boot.yaml "$@") >un2/log 2>&1; }
check "unshared: class images" class
check "unshared: the same class images" diff -r boot/out/class/png disk1/boot/class/png
check "unshared: on both machines" diff -r disk1/boot/class/png disk2/boot/class/png
check "unshared: same LoRA with class images" cmp boot/out/lora.safetensors disk1/boot/lora.safetensors
rm -r disk2/boot
check "unshared: a machine that is new" class resume=false
check "unshared: has the class images too" diff -r disk1/boot/class/png disk2/boot/class/png
cp disk1/boot/class/png/000000.png disk2/boot/class/png/strange.png
class resume=false && not_ok "unshared: other class images" "exit 0" || check "unshared: other class images" grep -q "holds 6 pictures here, and 5 on rank 0" un2/log

cat >sweep.yaml <<E
model: $MODEL
output: un/run
steps: 10
size: [32, 24]
batch: 1
axes: {prompt: [a red fox, two cats], seed: {count: 12}}
E
"$BIN" sweep sweep.yaml output=ref >ref.log 2>&1
on 1 "${MPI[@]}" --hostfile hosts -np 2 "$BIN" sweep sweep.yaml >sweep.log 2>&1 || not_ok "unshared: sweep" "$(tail -n 5 sweep.log)"
check "unshared: it was noticed" grep -q "gathered by rank 0" sweep.log
pixels() { h5dump -d meta/pixels_sha256 "$1" | tail -n +2; }
check "unshared: same images" cmp <(pixels ref/run.h5) <(pixels disk1/run/run.h5)
check "unshared: same PNGs" diff -r ref/png disk1/run/png
check "unshared: both rendered" test "$(h5dump -d meta/rank -y -w 1 disk1/run/run.h5 | grep -cE '^ +1')" -gt 0
check "unshared: nothing stays on the other disk" test -z "$(find disk2/run -name '*.h5')"
rm -rf disk1/run disk2/run # stopped: also then the images go to rank 0
on 1 "${MPI[@]}" --hostfile hosts -np 2 "$BIN" sweep sweep.yaml steps=30 >stop.log 2>&1 &
pid=$!
i=1200; while [ "$(ls disk1/run/png 2>/dev/null | wc -l)" -lt 4 ] && [ $((i -= 1)) -gt 0 ]; do sleep 0.1; done
kill -USR1 $(pgrep -P $pid -x mpirun || echo $pid) 2>/dev/null
wait $pid
check "unshared: a stopped sweep" grep -q "stopped by SIGUSR1" stop.log
check "unshared: leaves no image on the other disk" test -z "$(find disk2/run -name '*.h5')"
on 1 "${MPI[@]}" --hostfile hosts -np 2 "$BIN" sweep sweep.yaml steps=30 >stop2.log 2>&1
"$BIN" sweep sweep.yaml steps=30 output=ref30 >ref.log 2>&1
check "unshared: and ends with the same images" cmp <(pixels ref30/run.h5) <(pixels disk1/run/run.h5)

PY=${S3_PYTHON:-$ROOT/build/s3-venv/bin/python}
if ! "$PY" -c 'import moto, boto3, flask' 2>/dev/null; then echo "skip hosts: no Python with moto[server] and boto3"; finish; fi
port=$((24000 + $$ % 1000))
"$PY" -m moto.server -H $net.254 -p $port >moto.log 2>&1 &
moto=$!
export AWS_ACCESS_KEY_ID=k AWS_SECRET_ACCESS_KEY=s AWS_REGION=us-east-1 AWS_ENDPOINT_URL=http://$net.254:$port ATELIER=$BIN EVERY=1
"$PY" - <<E
import boto3, time
for i in range(600):
    try:
        boto3.client("s3", endpoint_url="$AWS_ENDPOINT_URL").create_bucket(Bucket="art"); break
    except Exception: time.sleep(0.2)
E
mkdir -p s1 s2 && sed 's/steps: 60/steps: 150/' train.yaml >long.yaml
mkdir -p calm2 && (cd calm2 && "$BIN" train ../long.yaml) >calm2/log 2>&1
(cd s1 && exec ip netns exec $tag"1" "$ROOT/cloud/spot.sh" s3://art/spot out -- "${MPI[@]}" --hostfile ../hosts -np 2 "$BIN" train ../long.yaml) >s1/log 2>&1 &
spot=$!
i=1200; while [ -z "$(last_checkpoint s1)" ] && [ $((i -= 1)) -gt 0 ]; do sleep 0.1; done
start=$SECONDS
kill -TERM $spot
wait $spot
code=$?
[ $code -eq 3 ] && ok "spot: stops with code 3" || not_ok "spot: stops with code 3" "code $code: $(tail -n 5 s1/log)"
check "spot: within two minutes" test $((SECONDS - start)) -lt 120
check "spot: saved" grep -q "stopped by SIGUSR1 after step" s1/log
rm -rf s1/out # the machines are gone
printf '%s slots=1\n' $net.2 $net.3 >hosts2
(cd s2 && ip netns exec $tag"2" "$ROOT/cloud/spot.sh" s3://art/spot out -- "${MPI[@]}" --hostfile ../hosts2 -np 2 "$BIN" train ../long.yaml) >s2/log 2>&1
code=$?
[ $code -eq 0 ] && ok "spot: ends on other machines" || not_ok "spot: ends on other machines" "code $code: $(tail -n 5 s2/log)"
check "spot: resumed" grep -q "resumed at step" s2/log
check "spot: same bytes" alike calm2 s2
"$BIN" fetch s3://art/spot s3/out >fetch.log 2>&1
check "spot: results are stored" alike calm2 s3
finish
