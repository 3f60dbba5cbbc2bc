#!/usr/bin/env python3
"""Data-parallel training on 1 to 4 ranks of this machine, one thread each, and a model of many GPUs from the bytes that a step adds
over the ranks.  benchmarks/train_scaling.py [BENCH_TRAIN]      results: build/train-scaling.txt
STEPS=12 steps each. Other work on the machine shows up as waiting: run it alone."""
import math
import os
import shutil
import subprocess
import sys
import tempfile

bench = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build/release/benchmarks/bench_train")
root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STEPS, PER_RANK = int(os.environ.get("STEPS", "12")), 4
lines = []


def say(text=""):
    print(text, flush=True)
    lines.append(text)


def run(ranks, *args):
    env = dict(os.environ, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    out = subprocess.run(["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks), bench, *args], cwd=root, env=env, check=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True).stdout
    return [dict(zip(words[::2], map(float, words[1::2]))) for words in (line.split() for line in out.splitlines()) if words[:1] == ["ranks"]]


def train(task, batch_of):
    keys = ["task=" + task, f"steps={STEPS}", "threads=1", "checkpoint.every=1000", "checkpoint.background=false", "tensorboard=false", "report=false"]
    if task == "full":
        keys.append("optimizer.lr=1e-5")
    for ranks in (1, 2, 3, 4):
        out = os.path.join(work, f"{task}-{batch_of(ranks)}-{ranks}")
        r = run(ranks, "configs/demo-lora.yaml", *keys, f"batch={batch_of(ranks)}", f"micro_batch={PER_RANK}", "output=" + out,
                "cache=" + os.path.join(work, "cache"))[0]
        rate = 1e3 * r["batch"] / r["ms_step"]
        first = rate if ranks == 1 else first
        say(f"{task:5} {ranks:5} {int(r['batch']):6} {r['ms_step']:9.1f} {r['data']:7.1f} {r['compute']:9.1f} {r['comm']:7.1f} {r['update']:8.1f} "
            f"{100 * r['comm'] / r['ms_step']:6.1f} % {rate:9.1f} {rate / first:7.2f} {r['bytes'] / 1e6:9.2f}")


# Inputs of the model. Bytes: 8 per trained value, as measured above.
VALUES = {"LoRA, rank 16 on attention": 3_188_736, "full UNet": 859_520_964}  # Stable Diffusion 1.5
FLOPS_IMAGE = 3 * 0.80e12  # forward and backward of the UNet at 512x512, from `atelier plan`'s count of one forward pass, times three
GPU_FLOPS = 0.35 * 990e12  # an H100's dense bf16 rate, a third of it reached
NODE, NODE_BW, NET_BW, LATENCY = 8, 300e9, 50e9, 10e-6  # GPUs of a node; bytes/s of a GPU in it and over the network; s per hop
MEMORY_BW = 2.5e12         # bytes/s of a GPU's memory: sums, clipping and AdamW read and write about 44 bytes per value


def allreduce(bytes_, gpus):
    """Ring within nodes, then a ring over nodes for each of a node's GPUs' share, then back (hierarchical reduce-scatter, all-gather)."""
    inside, nodes = min(gpus, NODE), max(1, gpus // NODE)
    t = 2 * (inside - 1) / inside * bytes_ / NODE_BW + 2 * (inside - 1) * LATENCY if inside > 1 else 0
    if nodes > 1:
        t += 2 * (nodes - 1) / nodes * (bytes_ / inside) / NET_BW + 2 * math.ceil(math.log2(nodes)) * LATENCY
    return t


def model():
    say("model: Stable Diffusion 1.5, 512x512, 4 images per GPU and step, nothing overlapped")
    say(f"  inputs: {FLOPS_IMAGE:.2g} FLOP per image, {GPU_FLOPS:.3g} FLOP/s per GPU, {NODE} GPUs per node with {NODE_BW / 1e9:.0f} GB/s each, "
        f"{NET_BW / 1e9:.0f} GB/s per GPU between nodes, {LATENCY * 1e6:.0f} us per hop, 8 bytes per trained value")
    say(f"{'trained':28} {'GPUs':>5} {'message':>9} {'compute':>8} {'update':>7} {'sum':>8} {'share':>7} {'efficiency':>10}")
    for name, values in VALUES.items():
        compute, update = PER_RANK * FLOPS_IMAGE / GPU_FLOPS, values * 44 / MEMORY_BW
        for gpus in (1, 8, 64, 256, 1024):
            comm = allreduce(8 * values, gpus)
            total = compute + update + comm
            say(f"{name:28} {gpus:5} {8 * values / 1e6:6.0f} MB {compute * 1e3:5.1f} ms {update * 1e3:4.1f} ms {comm * 1e3:5.2f} ms {100 * comm / total:5.1f} % "
                f"{100 * (compute + update) / total:8.1f} %")


work = tempfile.mkdtemp(prefix="train-scaling-")
try:
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    say(f"{cpu}, {os.cpu_count()} cores, one thread per rank; load {os.getloadavg()[0]:.1f} at the start")
    say("ms of a step, means over the ranks; comm: waiting for the slowest and adding; bytes: what each rank adds per step")
    say("task  ranks  batch   ms/step    data   compute    comm   update   comm %   images/s speed-up  MB added")
    train("lora", lambda n: PER_RANK * n)  # weak: work per rank stays
    train("lora", lambda n: PER_RANK * 12)  # strong: the same step for all
    train("full", lambda n: PER_RANK * n)
    say()
    say("exact sum over the ranks alone")
    for ranks in (2, 3, 4):
        say(f"{ranks} ranks: " + ", ".join(f"{r['bytes'] / 1e6:.3g} MB {r['ms']:.2f} ms" for r in run(ranks, "--reduce")))
    say()
    model()
finally:
    shutil.rmtree(work, ignore_errors=True)
os.makedirs("build", exist_ok=True)
with open("build/train-scaling.txt", "w") as f:
    f.write("\n".join(lines) + "\n")
