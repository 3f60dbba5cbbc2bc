"""LoRA files both ways: trained by ./atelier and rendered by diffusers, made with peft and rendered by ./atelier."""
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from peers import TINY, atelier, diffuse, finish, ok, pipeline, psnr, same, sample, section

PROMPT, NEGATIVE, SIZE, STEPS = "a photo of a red square", "blurry", (64, 48), 5
SAMPLERS = ("ddim", "euler", "dpmpp_2m")
tmp = Path(tempfile.mkdtemp(prefix="atelier-peers-"))
pipe = pipeline(TINY)


def ours(seed, sampler, loras=()):
    return sample(TINY, PROMPT, tmp / "ours.png", loras, seed=seed, sampler=sampler, steps=STEPS, negative=NEGATIVE,
                  size=f"[{SIZE[0]}, {SIZE[1]}]")


def theirs(seed, sampler):
    return diffuse(pipe, PROMPT, sampler, seed, STEPS, SIZE, negative=NEGATIVE)


def compare(name, path, scale=1.0, load=None, samplers=SAMPLERS):
    """One file in both programs, and neither is the image without it."""
    plain = {s: theirs(3, s) for s in samplers}
    (load or (lambda: pipe.load_lora_weights(str(path), adapter_name="a")))()
    pipe.set_adapters(["a"], [scale])
    for s in samplers:
        a, b = ours(3, s, [(path, scale)]), theirs(3, s)
        same(f"{name}: {s}, scale {scale}", a, b)
        p = psnr(b, plain[s])
        ok(f"{name}: {s} shows the LoRA", p < 30, f"PSNR {p:.1f} dB against the plain image")
    pipe.unload_lora_weights()


def dataset():
    data = tmp / "data"
    data.mkdir()
    rng = np.random.default_rng(0)
    for i, color in enumerate([(200, 30, 30), (30, 30, 200), (30, 160, 60), (220, 200, 40)]):
        pixels = np.full((64, 64, 3), 255, np.uint8)
        y, x = rng.integers(4, 30, 2)
        pixels[y:y + 28, x:x + 28] = color
        Image.fromarray(pixels).save(data / f"{i}.png")
        (data / f"{i}.txt").write_text(f"a square, number {i}\n")
    return data


TARGETS = "['attn*.to_q', 'attn*.to_k', 'attn*.to_v', 'attn*.to_out.0', 'ff.net*', 'proj_in', 'conv1', 'conv2']"


def train(form):
    config = tmp / f"{form}.yaml"
    config.write_text(f"model: {TINY}\noutput: {tmp}/{form}\ncache: {tmp}/cache\ndatasets: [{{path: {tmp}/data}}]\n"
                      "resolution: 64\nbatch: 4\nmicro_batch: 4\nsteps: 20\nseed: 5\n"
                      f"lora: {{rank: 4, alpha: 8, targets: {TARGETS}, format: {form}}}\n"
                      "optimizer: {lr: 2e-2, schedule: constant}\ncheckpoint: {every: 20, keep: 1}\n")
    atelier("train", config)
    return tmp / form / "lora.safetensors"


@section("lora: plain images agree")
def plain_images():
    for s in ("", "euler_a", *SAMPLERS):
        same(f"lora: no adapter, {s or 'the model scheduler'}", ours(11, s), theirs(11, s))


@section("lora: trained by atelier")
def trained_here():
    dataset()
    kohya, peft = train("kohya"), train("peft")
    a, b = load_file(kohya), load_file(peft)
    ups = sorted((v for k, v in a.items() if k.endswith("lora_up.weight")), key=lambda v: v.double().sum().item())
    ups2 = sorted((v for k, v in b.items() if k.endswith("lora_B.weight")), key=lambda v: v.double().sum().item())
    ok("lora: both formats hold the same values", len(ups) == len(ups2) and all(torch.equal(x, y) for x, y in zip(ups, ups2)),
       f"{len(ups)} modules")
    with safe_open(peft, "pt") as f:
        meta = json.loads(f.metadata()["lora_adapter_metadata"])
    ok("lora: PEFT metadata has rank and alpha", meta["unet.r"] == 4 and meta["unet.lora_alpha"] == 8)
    compare("lora: atelier to diffusers, kohya", kohya)
    compare("lora: atelier to diffusers, PEFT", peft)
    compare("lora: atelier to diffusers, kohya", kohya, 0.6, samplers=("ddim",))


def random_adapter(conv, text):
    """Fills both factors of every module, so that the adapter has an effect."""
    from peft import LoraConfig
    targets = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
    if conv:
        targets += ["conv1", "conv2", "time_emb_proj"]
    pipe.unet.add_adapter(LoraConfig(r=6, lora_alpha=9, target_modules=targets, init_lora_weights=False))
    if text:
        pipe.text_encoder.add_adapter(LoraConfig(r=3, lora_alpha=3, target_modules=["q_proj", "v_proj", "out_proj", "fc1"],
                                                 init_lora_weights=False))


def save_made(name, text):
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict
    from diffusers.training_utils import _collate_lora_metadata
    layers = {"unet_lora_layers": get_peft_model_state_dict(pipe.unet)}
    parts = {"unet": pipe.unet}
    if text:
        layers["text_encoder_lora_layers"] = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.text_encoder))
        parts["text_encoder"] = pipe.text_encoder
    pipe.save_lora_weights(tmp / name, **layers, **_collate_lora_metadata(parts))
    pipe.unload_lora_weights()
    return next((tmp / name).glob("*.safetensors"))


@section("lora: made with peft")
def made_there():
    torch.manual_seed(8)
    for name, conv, text in (("attention and ff", 0, 0), ("convolutions and text encoder", 1, 1)):
        random_adapter(conv, text)
        compare(f"lora: peft to atelier, {name}", save_made(name.replace(" ", "_"), text), samplers=("ddim", "dpmpp_2m"))


@section("lora: several at once")
def several():
    kohya, other = tmp / "kohya/lora.safetensors", next((tmp / "attention_and_ff").glob("*.safetensors"))
    pipe.load_lora_weights(str(kohya), adapter_name="a")
    pipe.load_lora_weights(str(other), adapter_name="b")
    pipe.set_adapters(["a", "b"], [0.7, 0.5])
    same("lora: two at once, 0.7 and 0.5", ours(4, "ddim", [(kohya, 0.7), (other, 0.5)]), theirs(4, "ddim"))
    pipe.unload_lora_weights()


finish()
