#!/usr/bin/env python3
"""Rules of the source tree: which room may include which, sizes of files and functions, names of exported functions,
no exit or abort outside src/cli. Prints "ok RULE" or "not ok RULE" and what breaks it."""
import os
import re
import subprocess
import sys

LAYER = {"base": 0, "ops": 1, "cpu": 1, "cuda": 1, "graph": 2, "io": 2, "text": 2, "comm": 2, "nn": 3,
         "models": 4, "sampler": 4, "train": 5, "sweep": 5, "curate": 5, "cli": 6, "serve": 6}
SAME_LAYER = {("train", "sweep"), ("cpu", "ops"), ("cuda", "ops"), ("models", "io"), ("text", "io"), ("comm", "io")}
ONLY_BASE = {"sampler"}
FILE_MAX, FUNCTION_MAX = 800, 100

problems = {"layers": [], "sampler includes base only": [], "file length": [], "function length": [], "names": [],
            "no exit or abort outside src/cli": [], "no absolute paths": [], "inline PTX": []}


def sources():
    out = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "src", "kernels"],
                         capture_output=True, text=True, check=True).stdout.split()
    return [f for f in out if f.endswith((".c", ".h", ".cu")) and os.path.exists(f)]


def check_includes(path, text):
    room = path.split("/")[1]
    for n, line in enumerate(text.split("\n"), 1):
        m = re.match(r'#include "(\w+)/', line)
        if not m or m.group(1) == room:
            continue
        other = m.group(1)
        if other not in LAYER:
            problems["layers"].append(f"{path}:{n}: unknown room {other}")
        elif LAYER[other] >= LAYER[room] and (room, other) not in SAME_LAYER:
            problems["layers"].append(f"{path}:{n}: {room} may not include {other}")
        if room in ONLY_BASE and other != "base":
            problems["sampler includes base only"].append(f"{path}:{n}: includes {other}")


def strip(text):
    """Comments and strings replaced by blanks of the same length in lines."""
    def blank(m):
        return re.sub(r"[^\n]", " ", m.group(0))
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text, flags=re.S)


def check_functions(path, code):
    start = None
    for n, line in enumerate(code.split("\n"), 1):
        if line.startswith("{"):
            start = n
        elif line.startswith("}") and start:
            if n - start - 1 > FUNCTION_MAX:
                problems["function length"].append(f"{path}:{start}: {n - start - 1} lines, more than {FUNCTION_MAX}")
            start = None


def shared_headers(files):
    """Headers that another room includes: their functions carry the room's prefix; private headers may use their own."""
    shared = set()
    for path in files:
        for m in re.finditer(r'^#include "((\w+)/[\w.]+)"', open(path, encoding="utf-8").read(), flags=re.M):
            if m.group(2) != path.split("/")[1]:
                shared.add("src/" + m.group(1))
    return shared


def check_names(path, code):
    room = path.split("/")[1]
    prefix = {"base": None, "models": None, "text": None, "io": "io_", "sampler": "sampler_", "cli": None, "nn": "nn_",
              "ops": None, "graph": None, "comm": None, "cpu": "cpu_", "train": "train_", "sweep": None}.get(room)
    if not prefix or not path.endswith(".h"):
        return
    for m in re.finditer(r"^(?!static|typedef|#)[A-Za-z_][\w \*]*?\b(\w+)\(", code, flags=re.M):
        if not m.group(1).startswith(prefix):
            problems["names"].append(f"{path}: {m.group(1)} does not begin with {prefix}")


def check_ptx(files):
    """All inline PTX is in kernels/device.h, and each function around a piece of it is tried alone in tests/cuda/wrappers.cu."""
    tests = strip(open("tests/cuda/wrappers.cu", encoding="utf-8").read())
    for path in files:
        code = strip(open(path, encoding="utf-8").read())
        for m in re.finditer(r"\basm\b", code):
            if not path.startswith("kernels/"):
                continue
            line = code.count("\n", 0, m.start()) + 1
            names = re.findall(r"__device__ __forceinline__ [\w ]+?\**\b(\w+)\(", code[:m.start()])
            if path != "kernels/device.h":
                problems["inline PTX"].append(f"{path}:{line}: belongs into kernels/device.h, with an emulated twin")
            elif not names or not re.search(rf"\b{names[-1]}\b", tests):
                problems["inline PTX"].append(f"{path}:{line}: {names[-1] if names else '?'} has no case in tests/cuda/wrappers.cu")


def main():
    files = sources()
    check_ptx(files)
    shared = shared_headers(files)
    for path in files:
        text = open(path, encoding="utf-8").read()
        code = strip(text)
        check_includes(path, text)
        check_functions(path, code)
        if path in shared:
            check_names(path, code)
        lines = text.count("\n")
        if lines > FILE_MAX:
            problems["file length"].append(f"{path}: {lines} lines, more than {FILE_MAX}")
        if not path.startswith("src/cli/"):
            for m in re.finditer(r"(?<!->)\b(exit|abort|_exit|MPI_Abort)\s*\(", code):
                line = code.count("\n", 0, m.start()) + 1
                if path not in ("src/comm/mpi.c", "src/comm/self.c"):  # comm_abort, which only cli/ calls
                    problems["no exit or abort outside src/cli"].append(f"{path}:{line}: {m.group(1)}")
        for m in re.finditer(r"/(?:home|root|work)/\w+", text):
            problems["no absolute paths"].append(f"{path}:{text.count(chr(10), 0, m.start()) + 1}: {m.group(0)}")
    bad = 0
    for rule, found in problems.items():
        bad += bool(found)
        print(("not ok " if found else "ok ") + rule.replace(" ", "_"))
        for f in found:
            print("  " + f)
    tally = os.environ.get("TEST_TALLY")
    if tally:
        with open(tally, "a", encoding="utf-8") as f:
            f.write(f"{len(problems) - bad} {bad} 0\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
