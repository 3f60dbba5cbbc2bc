#!/usr/bin/env python3
"""What ptxas says of every kernel: registers, bytes of static shared memory and bytes spilled, per architecture.

usage: registers.py NVCC "80 90 100" FILE.cu... > benchmarks/results/registers.txt
Fails when a kernel spills. Nothing here is measured on a GPU.
"""
import os
import re
import subprocess
import sys
import tempfile


def kernels_of(nvcc, sm, path):
    with tempfile.TemporaryDirectory() as tmp:
        log = subprocess.run([nvcc, "-std=c++17", "-O3", f"-arch=sm_{sm}", "-Xptxas", "-v", "-cubin", path, "-o", os.path.join(tmp, "a.cubin")],
                             check=True, stderr=subprocess.PIPE, text=True).stderr
    for part in log.split("Compiling entry function '")[1:]:
        spill = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
        used = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        yield part[:part.index("'")], int(used[1]), int(shared[1]) if shared else 0, int(spill[1]) + int(spill[2])


def readable(names):
    text = subprocess.run(["c++filt"], input="\n".join(names), check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    short = []
    for t in text:
        t = re.sub(r"\(anonymous namespace\)::", "", t).removeprefix("void ")
        depth = 0
        for i, ch in enumerate(t):
            depth += (ch == "<") - (ch == ">")
            if ch == "(" and not depth and t[i + 1:i + 2] != "n":
                t = t[:i]
                break
        short.append(re.sub(r"\((?:int|bool)\)", "", t))
    return dict(zip(names, short))


def main():
    nvcc, sms, files = sys.argv[1], sys.argv[2].split(), sys.argv[3:]
    version = subprocess.run([nvcc, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout
    print(f"nvcc {re.search(r'V([0-9.]+)', version)[1]}, -O3: registers / static shared bytes / spilled bytes of each kernel")
    print(f"{'':52s}" + "".join(f"{'sm_' + s:>16s}" for s in sms))
    spilled = 0
    for path in files:
        table = {}
        for sm in sms:
            for name, registers, shared, spill in kernels_of(nvcc, sm, path):
                table.setdefault(name, {})[sm] = f"{registers} / {shared} / {spill}"
                spilled += spill
        print(path)
        names = readable(list(table))
        for text, name in sorted((names[n], n) for n in table):
            print(f"  {text:50s}" + "".join(f"{table[name].get(s, '-'):>16s}" for s in sms))
    if spilled:
        print(f"{spilled} bytes are spilled", file=sys.stderr)
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main())
