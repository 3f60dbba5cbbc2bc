"""run.h5, checkpoints and PNGs as h5py, h5dump and PIL read them; the A1111 text by an independent parser."""
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from peers import ROOT, TINY, atelier, finish, ok, section, skip

tmp = Path(tempfile.mkdtemp(prefix="atelier-peers-"))
PROMPTS = ['a cat, é "quoted": yes', "日本の犬, second\nline", "plain"]


def train():
    data = tmp / "data"
    data.mkdir()
    for i in range(2):
        Image.fromarray(np.full((32, 32, 3), 90 + 100 * i, np.uint8)).save(data / f"{i}.png")
        (data / f"{i}.txt").write_text("grey")
    (tmp / "train.yaml").write_text(f"model: {TINY}\noutput: {tmp}/lora\ndatasets: [{{path: {data}}}]\nresolution: 32\nbatch: 2\n"
                                    "steps: 3\nlora: {rank: 2}\noptimizer: {lr: 1e-2}\ncheckpoint: {every: 3, keep: 1}\n")
    atelier("train", tmp / "train.yaml")
    return tmp / "lora/lora.safetensors"


def sweep(lora):
    (tmp / "sweep.yaml").write_text(
        f"model: {TINY}\noutput: {tmp}/out\nsize: [48, 32]\nsteps: 2\nlatents: true\nnegative: 'bad, \"worse\"'\nsampler: ddim\n"
        f"axes:\n  prompt: {json.dumps(PROMPTS)}\n  lora: [none, {{name: grey, path: {lora}, scale: 0.75}}]\n")
    atelier("sweep", tmp / "sweep.yaml")


def h5dump(name, path):
    if not shutil.which("h5dump"):
        return skip(name, "no h5dump (package hdf5-tools)")
    r = subprocess.run(["h5dump", str(path)], capture_output=True)
    ok(name, r.returncode == 0 and not r.stderr and len(r.stdout) > 1000, r.stderr.decode()[-200:].strip())


def a1111(text):
    """prompt, negative, fields: written from the format's description, not from our parser."""
    *head, last = text.split("\n")
    fields = {}
    at = 0
    pattern = re.compile(r'([A-Za-z0-9_][\w /\-]*): ("(?:[^"\\]|\\.)*"|[^",]*)(, |$)')
    while at < len(last):
        m = pattern.match(last, at)
        if not m:
            raise ValueError(f"parameters line does not parse at {last[at:at + 40]!r}")
        fields[m[1]] = json.loads(m[2]) if m[2].startswith('"') else m[2]
        at = m.end()
    body = "\n".join(head)
    prompt, _, negative = body.partition("\nNegative prompt: ")
    return prompt, negative, fields


def text(v):
    return v.decode() if isinstance(v, bytes) else v


def check_png(k, f, lora_hash):
    image = Image.open(tmp / f"out/png/{k:06d}.png")
    record = json.loads(text(f["meta/record"][k]))
    prompt, negative, fields = a1111(image.text["parameters"])
    pixels = np.asarray(image)
    with_lora = k % 2 == 1
    return {
        "pixels": image.mode == "RGB" and np.array_equal(pixels, f["images"][k]),
        "sha256": hashlib.sha256(pixels.tobytes()).hexdigest() == record["pixels_sha256"] == text(f["meta/pixels_sha256"][k]),
        "record": json.loads(image.text["atelier"]) == record,
        "columns": text(f["meta/prompt"][k]) == record["prompt"] == PROMPTS[k // 2] and f["meta/seed"][k] == record["seed"]
                   and f["meta/guidance"][k] == record["guidance"] == 7.5,
        "prompt": re.sub(r"\s*<lora:[^>]*>", "", prompt) == PROMPTS[k // 2] and negative == 'bad, "worse"',
        "fields": fields["Steps"] == "2" and fields["Sampler"] == "DDIM" and fields["CFG scale"] == "7.5" and fields["Seed"] == "0"
                  and fields["Size"] == "48x32" and record["model_hash"].startswith(fields["Model hash"]),
        "lora": bool(record["lora"]) == with_lora and (not with_lora or (
            "<lora:grey:0.75>" in prompt and record["lora"][0]["scale"] == 0.75 and record["lora"][0]["hash"] == lora_hash
            and lora_hash.startswith(dict(p.split(": ") for p in fields["Lora hashes"].split(", "))["grey"]))),
    }


@section("files: sweep")
def sweep_files():
    lora = train()
    sweep(lora)
    data = lora.read_bytes()
    # kohya's addnet hash: the bytes after the header
    lora_hash = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little"):]).hexdigest()
    with h5py.File(tmp / "out/run.h5") as f:
        n = len(f["images"])
        ok("files: run.h5 opens in h5py", n == 6 and f.attrs["done"] == f.attrs["total"] == 6 and "axes" in text(f["config"][()]))
        results = [check_png(k, f, lora_hash) for k in range(n)]
        ok("files: latents are finite", f["latents"].shape == (6, 4, 16, 24) and np.isfinite(f["latents"][:]).all())
        ok("files: grid shape and labels", list(f["grid/shape"][:]) == [3, 2] and [text(v) for v in f["grid/axes"][:]] == ["prompt", "lora"]
           and len(f["grid/labels/prompt"]) == 3)
    for what in results[0]:
        bad = [k for k, r in enumerate(results) if not r[what]]
        ok(f"files: PNG and run.h5 agree, {what}", not bad, f"images {bad}" if bad else "")
    h5dump("files: h5dump reads run.h5", tmp / "out/run.h5")


@section("files: checkpoint")
def checkpoint():
    path = next((tmp / "lora/checkpoints").glob("*.h5"))
    lora = load_file(tmp / "lora/lora.safetensors")
    with h5py.File(path) as f:
        ok("files: checkpoint opens in h5py", f.attrs["step"] == 3 and len(f["loss"]) == 3 and np.isfinite(f["loss"][:]).all()
           and "rank" in text(f["config"][()]))
        names = []
        f["param"].visititems(lambda name, d: names.append(name) if isinstance(d, h5py.Dataset) else None)
        stored = {n: f["param"][n][()] for n in names}
        moments = all(f[g][n].shape == stored[n].shape for g in ("adam_m", "adam_v") for n in names)
    ups = [v for n, v in stored.items() if n.endswith("lora_B.weight")]
    saved = [v for n, v in lora.items() if n.endswith("lora_up.weight")]
    same = sorted(v.tobytes() for v in ups) == sorted(v.tobytes() for v in saved)
    ok("files: checkpoint holds the LoRA's values and moments", same and moments and len(ups) > 0, f"{len(ups)} modules")
    h5dump("files: h5dump reads the checkpoint", path)


@section("files: LoRA metadata")
def metadata():
    from safetensors import safe_open
    path = tmp / "lora/lora.safetensors"
    with safe_open(path, "np") as f:
        meta = f.metadata()
    data = path.read_bytes()
    body = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little"):]).hexdigest()
    ok("files: sshs_model_hash is the hash of the data", meta["sshs_model_hash"] == body)
    minimum = ("ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args")
    ok("files: kohya's minimum of ss_ metadata", all(k in meta for k in minimum) and meta["ss_network_dim"] == "2"
       and float(meta["ss_network_alpha"]) == 2 and json.loads(meta["ss_network_args"]) == {} and meta["ss_max_train_steps"] == "3"
       and json.loads(meta["ss_datasets"]) is not None)


finish()
