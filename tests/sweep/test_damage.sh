#!/usr/bin/env bash
# Run files and parts with damaged bytes, given to every command that reads them: an answer or an error, never a crash or a hang.
. tests/sweep/lib.sh
config "$T/a" 1 >"$T/a.yaml"
sed -i 's/^sheet: .*/sheet: {enabled: false}/; s/count: 3/count: 1/' "$T/a.yaml"
check damage__sweep "$A" sweep "$T/a.yaml" join=virtual png=false
out=$(python3 - "$A" "$T" "${DAMAGES:-12}" 2>&1 <<'END'
import glob, os, random, subprocess, sys
atelier, t, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
files = [t + "/a/run.h5"] + glob.glob(t + "/a/parts/*.h5")
whole = [open(f, "rb").read() for f in files]
random.seed(4)
answers = {}
for k in range(rounds):
    which = k % len(files)
    b = bytearray(whole[which])
    for _ in range(random.choice([1, 2, 4, 30])):
        b[random.randrange(len(b) if random.random() < 0.5 else min(len(b), 20000))] = random.randrange(256)
    if k % 5 == 4:
        b = b[:random.randrange(len(b))]
    open(files[which], "wb").write(b)
    for command in (["ls", files[0]], ["show", files[0] + "#1"], ["export", files[0], "--out", t + "/e"], ["ls", files[-1]],
                    ["reproduce", files[0] + "#1", "--config-only"]):
        r = subprocess.run([atelier] + command, capture_output=True, timeout=60).returncode
        answers[r] = answers.get(r, 0) + 1
        if r not in (0, 1, 2):
            print("round", k, command, "ended with", r)
            sys.exit(1)
    open(files[which], "wb").write(whole[which])
print(answers)
END
)
rc=$?
echo "# $out"
check damage__answers_or_errors test $rc -eq 0
check damage__some_of_both grep -q '0: .*1: \|1: .*0: ' <<<"$out"
exit $((fails > 0))
