"""A full-size Stable Diffusion 1.5 folder made by diffusers: f32, fp16 variant and bf16 shards render as diffusers does."""
import tempfile
from pathlib import Path

import numpy as np
import torch

import make_sd15
from peers import diffuse, finish, ok, pipeline, psnr, same, sample, section

PROMPT, NEGATIVE, STEPS = "a lighthouse in a storm, oil on canvas", "blurry", 2
tmp = Path(tempfile.mkdtemp(prefix="atelier-peers-"))


def ours(model, name, side, **keys):
    return sample(model, PROMPT, tmp / f"{name}.png", seed=6, sampler="ddim", steps=STEPS, negative=NEGATIVE,
                  size=f"[{side}, {side}]", **keys)


def theirs(pipe, side):
    return diffuse(pipe, PROMPT, "ddim", 6, STEPS, (side, side), negative=NEGATIVE)


@section("full: SD 1.5")
def full():
    if not make_sd15.have():
        make_sd15.make()
    pipe = pipeline(make_sd15.FULL)
    a, b = ours(make_sd15.FULL, "f32", 256), theirs(pipe, 256)
    ok("full: the image is not flat", b.std() > 20 and np.isfinite(b).all(), f"deviation {b.std():.0f}")
    same("full: SD 1.5, f32", a, b)
    a, b = ours(make_sd15.FULL, "small", 128), theirs(pipe, 128)
    same("full: SD 1.5, f32, 128x128", a, b)
    ok("full: bf16 shards give the same bytes as f32", np.array_equal(ours(make_sd15.BF16, "shards", 128), a))
    same("full: fp16 variant", ours(make_sd15.FULL, "fp16", 128, variant="fp16"), b)
    del pipe
    low = theirs(pipeline(make_sd15.BF16, torch_dtype=torch.bfloat16), 128)
    mine, peer = psnr(ours(make_sd15.BF16, "bf16", 128, dtype="bf16"), b), psnr(low, b)
    ok("full: computing in bf16 is as near to f32 as diffusers is", mine > peer - 1.5, f"PSNR {mine:.1f} dB, diffusers {peer:.1f} dB")


finish()
