"""What the checks against other programs share: TAP lines, running ./atelier, rendering with diffusers, PSNR."""
import math
import os
import pathlib
import subprocess
import sys
import traceback

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ROOT / "tests/vectors/sd15-tiny"
WORK = ROOT / "build/peers"
BIN = pathlib.Path(os.environ.get("ATELIER_BIN", ROOT / "atelier")).resolve()
SAME_DB = 45.0       # two programs, one image
failures = 0


def ok(name, good, why=""):
    global failures
    failures += not good
    print(f"{'ok' if good else 'not ok'} {name}" + (f" ({why})" if why else ""), flush=True)
    return good


def skip(name, why):
    print(f"skip {name}: {why}", flush=True)


def section(name):
    """Runs a function of checks; an exception is one failed check."""
    def run(fn):
        try:
            fn()
        except Exception as e:
            traceback.print_exc(file=sys.stderr)
            ok(name, False, f"{type(e).__name__}: {e}")
        return fn
    return run


def finish():
    sys.exit(failures > 0)


def atelier(*args, cwd=ROOT):
    r = subprocess.run([str(BIN), *map(str, args)], cwd=cwd, capture_output=True, text=True)
    if r.returncode:
        raise RuntimeError(f"atelier {' '.join(map(str, args))}: exit code {r.returncode}: {r.stderr.strip()[-500:]}")
    return r.stdout


def psnr(a, b):
    """Of two uint8 images, in dB; infinite when equal."""
    if a.shape != b.shape:
        return 0.0
    mse = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return math.inf if mse == 0 else 10 * math.log10(255 ** 2 / mse)


def same(name, a, b, limit=SAME_DB):
    p = psnr(a, b)
    return ok(name, p > limit, f"PSNR {p:.1f} dB")


def sample(model, prompt, out, loras=(), **keys):
    """`atelier sample` with torch's noise; returns the pixels."""
    args = ["sample", model, prompt, "-o", out, "seed_compat=diffusers-cpu"]
    for path, scale in loras:
        args += ["--lora", f"{path}:{scale}"]
    atelier(*args, *(f"{k}={v}" for k, v in keys.items()))
    return np.asarray(Image.open(out).convert("RGB"))


def pipeline(folder, **kw):
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging
    logging.disable_progress_bar()
    kw.setdefault("torch_dtype", torch.float32)
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True, **kw)
    pipe.set_progress_bar_config(disable=True)
    pipe.native_scheduler = pipe.scheduler
    return pipe


def scheduler(pipe, sampler):
    """The diffusers class of one of our samplers, with the model's own settings; "" is the model's own."""
    import diffusers
    names = {"ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler", "dpmpp_2m": "DPMSolverMultistepScheduler",
             "pndm": "PNDMScheduler", "euler_a": "EulerAncestralDiscreteScheduler"}
    if not sampler:
        return pipe.native_scheduler
    return getattr(diffusers, names[sampler]).from_config(pipe.native_scheduler.config)


def diffuse(pipe, prompt, sampler="", seed=0, steps=4, size=(64, 64), guidance=7.5, negative=""):
    """The same image from diffusers as `sample` makes."""
    import torch
    pipe.scheduler = scheduler(pipe, sampler)
    image = pipe(prompt, negative_prompt=negative, num_inference_steps=steps, width=size[0], height=size[1],
                 guidance_scale=guidance, generator=torch.Generator("cpu").manual_seed(seed), output_type="np").images[0]
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
