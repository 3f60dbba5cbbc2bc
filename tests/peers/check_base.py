"""The base model that ships in models/base, in transformers and diffusers: tokenizer, both CLIP towers, the whole pipeline."""
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from peers import ROOT, atelier, diffuse, finish, ok, pipeline, psnr, same, sample, section, skip

BASE, CONFIG = ROOT / "models/base", ROOT / "configs/base/model"
TEXTS = ["a red apple", "A Yellow STAR, on black!", "two cats & a dog's bone", "naïve café, 日本 \U0001f600", "it's   1234 o'clock\n", "x" * 400]
tmp = Path(tempfile.mkdtemp(prefix="atelier-peers-"))


def tokenizer(folder):
    from transformers import CLIPTokenizer
    tok = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    cases = json.loads((ROOT / "tests/vectors/tokenizer/clip_cases.json").read_text())
    texts = TEXTS + [c["text"] for c in cases if "\0" not in c["text"] and not c["text"].startswith("-")][::6]
    bad = []
    for text in texts:
        lines = atelier("tokenize", folder, text).splitlines()
        if [int(i) for i in lines[0].split()] != tok(text, add_special_tokens=False, truncation=False).input_ids:
            bad.append(text)
    ok("base: tokenizer gives transformers' ids", not bad, f"{len(texts)} texts" if not bad else f"differs on {bad[:3]!r}")


def towers():
    from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer
    clip, info = CLIPModel.from_pretrained(BASE / "clip", output_loading_info=True)
    ok("base: transformers loads clip/ as CLIPModel", not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")),
       f"{sum(p.numel() for p in clip.parameters()) / 1e6:.1f} M parameters")
    text, info = CLIPTextModel.from_pretrained(BASE / "text_encoder", output_loading_info=True)
    ok("base: transformers loads text_encoder/", not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")))
    tok = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    ids = tok(["a red apple", "a blue car"], padding="max_length", max_length=text.config.max_position_embeddings, truncation=True,
              return_tensors="pt").input_ids
    with torch.no_grad():
        a = clip.text_model(ids).last_hidden_state
        b = text(ids).last_hidden_state
    ok("base: text_encoder/ is the text tower of clip/", (a - b).abs().max() < 0.05 * a.abs().max(), f"{(a - b).abs().max():.1e}")


def render():
    pipe = pipeline(BASE)
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    for prompt, sampler, seed in (("a red apple", "", 1), ("a blue car", "dpmpp_2m", 2)):
        a = sample(BASE, prompt, tmp / "a.png", seed=seed, sampler=sampler, steps=8, guidance=3)
        b = diffuse(pipe, prompt, sampler, seed, 8, (side, side), 3)
        same(f"base: diffusers renders '{prompt}' alike ({sampler or 'the model scheduler'})", a, b)
    ok("base: prompts matter", psnr(a, sample(BASE, "a red apple", tmp / "a.png", seed=2, sampler="dpmpp_2m", steps=8, guidance=3)) < 30)


def lora():
    path = ROOT / "out/demo-lora/lora.safetensors"
    if not path.exists():
        return skip("base: the demo's LoRA", "out/demo-lora is not there (make demo)")
    pipe = pipeline(BASE)
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    pipe.load_lora_weights(str(path))
    a = sample(BASE, "a telephone", tmp / "a.png", [(path, 1)], seed=3, sampler="ddim", steps=8, guidance=3)
    same("base: the demo's LoRA in diffusers", a, diffuse(pipe, "a telephone", "ddim", 3, 8, (side, side), 3))


@section("base")
def base():
    whole = (BASE / "unet/diffusion_pytorch_model.safetensors").exists()
    tokenizer(BASE if whole else CONFIG)
    if not whole:
        return skip("base: models/base", "it is not there")
    for part in (towers, render, lora):
        section(f"base: {part.__name__}")(part)


finish()
