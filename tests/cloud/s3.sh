#!/usr/bin/env bash
# `atelier push` and `fetch` against an S3-protocol server (moto, which checks signatures) behind a proxy that fails on demand: nothing is
# lost, nothing damaged passes, and a run that is pushed while it trains goes on elsewhere with the same bytes.
. tests/train/lib.sh
PY=${S3_PYTHON:-build/s3-venv/bin/python}
"$PY" -c 'import moto, boto3, flask' 2>/dev/null || { echo "skip s3: no Python with moto[server] and boto3 (make check-cloud installs it)"; exit 0; }
PY=$(realpath -s "$PY")
port=$(free_ports $((21000 + $$ % 1000 * 2)) 2)
cd "$TMP" || exit 1
"$PY" -m moto.server -H 127.0.0.1 -p $port >moto.log 2>&1 &
moto=$!
"$PY" "$ROOT/tests/cloud/proxy.py" $((port + 1)) $port >proxy.log 2>&1 &
proxy=$!
trap 'kill -9 $moto $proxy 2>/dev/null; rm -rf "$TMP"' EXIT
trap 'exit 1' TERM INT
cat >keys.py <<E
import json, time, urllib.request, boto3
kw = dict(endpoint_url="http://127.0.0.1:$port", region_name="us-east-1", aws_access_key_id="root", aws_secret_access_key="root")
for i in range(600):
    try:
        boto3.client("s3", **kw).create_bucket(Bucket="art"); break
    except Exception: time.sleep(0.2)
i = boto3.client("iam", **kw)
i.create_user(UserName="u")
i.put_user_policy(UserName="u", PolicyName="p", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}))
k = i.create_access_key(UserName="u")["AccessKey"]
print(k["AccessKeyId"], k["SecretAccessKey"])
urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:$port/moto-api/reset-auth", data=b"0", headers={"content-type": "text/plain"}))
E
read -r AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY < <("$PY" keys.py 2>keys.log)
[ -n "${AWS_SECRET_ACCESS_KEY:-}" ] || { not_ok "s3: the server starts" "$(tail -n 3 keys.log moto.log)"; exit 1; }
ok "s3: the server starts and checks signatures"
export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_REGION=us-east-1 AWS_ENDPOINT_URL=http://127.0.0.1:$((port + 1)) ATELIER_S3_PART=5242880
net() { echo "$1" >mode; : >requests; }
net ok

# Small, empty, odd names, and a large one in parts.
mkdir -p "f/sub dir" f/cache
head -c 12000000 /dev/urandom >f/large.h5
: >f/empty
echo text >"f/sub dir/é +(1)&.txt"
echo old >f/cache/x
check "s3: push" "$BIN" push f s3://art/run/1
check "s3: large file went in three parts" test "$(grep -c 'PUT .*partNumber' requests)" -eq 3
check "s3: caches stay here" test -z "$(grep cache requests)"
check "s3: fetch" "$BIN" fetch s3://art/run/1 g
rm -rf f/cache
check "s3: same bytes" diff -r f g
net ok
check "s3: pushed again, nothing is sent" "$BIN" push f s3://art/run/1
check "s3: indeed nothing" test -z "$(grep -E 'PUT|POST' requests)"
echo more >>"f/sub dir/é +(1)&.txt"
check "s3: one file changed" grep -q "3 files are in s3://art/run/1, 1 of them" <("$BIN" push f s3://art/run/1)
check "s3: an empty place" "$BIN" fetch s3://art/none h

# Secrets and servers that are wrong.
refuse() { # NAME TEXT COMMAND...
    out=$("${@:3}" 2>&1) && not_ok "$1" "exit 0" && return
    grep -q -- "$2" <<<"$out" && ok "$1" || not_ok "$1" "$out"
}
AWS_SECRET_ACCESS_KEY=wrong refuse "s3: wrong secret" "key, secret or region are wrong" "$BIN" push f s3://art/run/2
refuse "s3: no bucket" "NoSuchBucket" "$BIN" push f s3://nobody/run
AWS_ACCESS_KEY_ID='' refuse "s3: no key" "AWS_ACCESS_KEY_ID is not set" "$BIN" push f s3://art/run/2
refuse "s3: no folder" "no folder" "$BIN" push nothing s3://art/run/2
refuse "s3: bad URL" "expected s3://" "$BIN" push f art/run/2

# Every second request fails: all arrives.
net 503
check "s3: push through failures" "$BIN" push f s3://art/run/3
check "s3: fetch through failures" "$BIN" fetch s3://art/run/3 f3
check "s3: same bytes through failures" diff -r f f3
# Bodies are damaged on the way: never taken for good.
net flip
mkdir -p one && echo precious >one/a
refuse "s3: damaged on the way up" "not safe" env ATELIER_S3_TRIES=2 "$BIN" push one s3://art/run/4
net ok
check "s3: then sent again" "$BIN" push one s3://art/run/4
check "s3: and whole" cmp one/a <("$BIN" fetch s3://art/run/4 one4 >&2; cat one4/a)
# Answers are cut: nothing half stays, and the next try works.
net cut
(sleep 1; net ok) &
check "s3: fetch after cut answers" "$BIN" fetch s3://art/run/3 f5
check "s3: same bytes after cut answers" diff -r f f5

# A run that is pushed while it trains; the machine is lost without warning; another one goes on.
make_data
make_config "steps: 120" "checkpoint: {every: 5, keep: 2}"
straight calm
mkdir -p a b
(cd a && exec "$BIN" train ../train.yaml) >a/log 2>&1 &
pid=$!
"$BIN" push --follow $pid --every 1 a/out s3://art/run/5 >push.log 2>&1 &
push=$!
i=1200; while ! grep -q "PUT .*checkpoints" requests && [ $((i -= 1)) -gt 0 ]; do sleep 0.1; done
net down
before=$(last_checkpoint a)
i=3000; while [ "$(last_checkpoint a)" = "$before" ] && [ $((i -= 1)) -gt 0 ]; do sleep 0.02; done
kill -STOP $pid # so that it is there to be killed
check "s3: the network goes, the run goes on" test $i -gt 0
sleep 2
net ok
kill -9 $pid
wait $pid 2>/dev/null
wait $push
rc=$?
[ $rc -eq 0 ] && ok "s3: everything of a killed run is safe" || not_ok "s3: everything of a killed run is safe" "$(cat push.log)"
check "s3: fetched elsewhere" "$BIN" fetch s3://art/run/5 b/out
run b
check "s3: goes on elsewhere" grep -q "resumed at step" b/log
check "s3: same bytes elsewhere" alike calm b
finish
