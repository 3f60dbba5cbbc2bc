"""LoRA files both ways: trained by ./atelier and rendered by diffusers, made with peft and rendered by ./atelier."""
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from peers import TINY, atelier, diffuse, finish, ok, pipeline, psnr, same, sample, section, skip

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


KINDS = {"loha": "type: loha, rank: 3", "lokr": "type: lokr, rank: 2, decompose_both: true, lokr_factor: 4",
         "dora": "rank: 4, alpha: 8, dora: true, format: peft",  # diffusers drops kohya's dora_scale
         "rslora": "rank: 4, alpha: 4, rslora: true, conv_rank: 2"}


def train_kind(name, keys):
    config = tmp / f"{name}.yaml"
    config.write_text(f"model: {TINY}\noutput: {tmp}/{name}\ncache: {tmp}/cache\ndatasets: [{{path: {tmp}/data}}]\n"
                      "resolution: 64\nbatch: 4\nmicro_batch: 4\nsteps: 10\nseed: 5\n"
                      f"lora: {{{keys}, targets: {TARGETS}}}\n"
                      "optimizer: {lr: 2e-2, schedule: constant}\ncheckpoint: {every: 10, keep: 1}\n")
    atelier("train", config)
    return tmp / name / "lora.safetensors"


def check_hashes(name, path):
    """kohya's hashes, by the library that its trainer uses."""
    import hashlib
    from safetensors.torch import save
    with safe_open(path, "pt") as f:
        meta = f.metadata()
    data = save(load_file(path), {k: v for k, v in meta.items() if k.startswith("ss_")})
    n = int.from_bytes(data[:8], "little")
    ok(f"lora: {name}, sshs_model_hash as the safetensors library's", meta["sshs_model_hash"] == hashlib.sha256(data[8 + n:]).hexdigest())
    legacy = hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    ok(f"lora: {name}, sshs_legacy_hash", meta["sshs_legacy_hash"] == legacy)


def check_delta(name, path):
    """The change of every module's weight by LyCORIS' own code, against the merged model's."""
    from lycoris.functional import loha
    t, base, merged = load_file(path), load_file(TINY / "unet/diffusion_pytorch_model.safetensors"), \
        load_file(tmp / f"{name}-merged/unet/diffusion_pytorch_model.safetensors")
    flat = {k[:-len(".weight")].replace(".", "_"): k for k in base if k.endswith(".weight")}
    worst = 0
    for stem in sorted({k.split(".")[0] for k in t}):
        g = lambda leaf: t.get(f"{stem}.{leaf}")
        if name == "loha":
            d = loha.diff_weight(g("hada_w1_b"), g("hada_w1_a"), g("hada_w2_b"), g("hada_w2_a"), None, None,
                                 gamma=float(g("alpha")) / g("hada_w1_b").shape[0])
        else:
            whole = g("lokr_w1") is not None and g("lokr_w2") is not None
            rank = 1 if whole else (g("lokr_w1_b") if g("lokr_w1_b") is not None else g("lokr_w2_b")).shape[0]
            scale = 1.0 if whole else float(g("alpha")) / rank
            w1 = g("lokr_w1") if g("lokr_w1") is not None else g("lokr_w1_a") @ g("lokr_w1_b")
            w2 = g("lokr_w2") if g("lokr_w2") is not None else g("lokr_w2_a") @ g("lokr_w2_b")
            d = torch.kron(w1, w2.reshape(w2.shape[0], -1)) * scale
        key = flat[stem[len("lora_unet_"):]]
        want = (merged[key].double() - base[key].double()).reshape(-1)
        worst = max(worst, ((d.double().reshape(-1) - want).norm() / want.norm()).item())
    ok(f"lora: {name}, the change as LyCORIS computes it", worst < 1e-4, f"worst relative difference {worst:.1e}")


@section("lora: every kind trained by atelier")
def kinds():
    paths = {name: train_kind(name, keys) for name, keys in KINDS.items()}
    for name, path in paths.items():
        if name != "dora":
            check_hashes(name, path)
    for name in ("dora", "rslora"):
        compare(f"lora: {name} to diffusers", paths[name], samplers=("ddim",))
    for name in ("loha", "lokr"):
        merged = tmp / f"{name}-merged"
        atelier("merge", TINY, paths[name], "-o", merged)
        from peers import pipeline as open_pipeline
        same(f"lora: {name}, merged by atelier, rendered by diffusers", ours(3, "ddim", [(paths[name], 1)]),
             diffuse(open_pipeline(merged), PROMPT, "ddim", 3, STEPS, SIZE, negative=NEGATIVE))
        try:
            import lycoris  # noqa: F401
        except ImportError:
            skip(f"lora: {name} with LyCORIS", "lycoris_lora is not installed")
            continue
        check_delta(name, paths[name])


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
