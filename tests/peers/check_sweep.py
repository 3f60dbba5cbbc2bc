"""Sweeps against diffusers' pipelines on the same random-weight model: text to image with every shared sampler, img2img, inpainting with
4 and 9 channels, a second pass from upscaled latents. Same seed, same settings, PSNR over 45 dB."""
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from peers import TINY, atelier, finish, ok, pipeline, same, section, skip

import torch
import diffusers
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, UNet2DConditionModel

torch.set_num_threads(1)
tmp = Path(tempfile.mkdtemp(prefix="atelier-peers-"))
PROMPT, NEGATIVE, SEED, STEPS, GUIDANCE, SIZE = "a red house by the sea", "blurry", 7, 6, 5.0, 64
# ours: (diffusers class, settings)
SAMPLERS = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_sde": ("DPMSolverSDEScheduler", {"noise_sampler_seed": SEED}),  # else its noise has no seed
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
}
FEW = ["ddim", "euler", "euler_a", "dpmpp_2m", "heun", "unipc", "ddpm"]  # starts in the middle
# diffusers takes the first calls of such a run for the start-up pair of PNDM and ends a level too noisy: pndm is left out


def pictures():
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    rgb = np.stack([x, y, 0.5 + 0.5 * np.sin(9 * x * y)], -1)
    Image.fromarray((rgb * 255).astype(np.uint8)).save(tmp / "source.png")
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[16:48, 8:40] = 255
    Image.fromarray(mask).save(tmp / "mask.png")
    return Image.open(tmp / "source.png").convert("RGB"), Image.open(tmp / "mask.png").convert("L")


def sweep(name, model, samplers, **keys):
    """Images of one atelier sweep over samplers, by sampler."""
    conf = {"model": str(model), "output": str(tmp / name), "prompt": PROMPT, "negative": NEGATIVE, "seed": SEED, "steps": STEPS,
            "guidance": GUIDANCE, "size": [SIZE, SIZE], "seed_compat": "diffusers-cpu", "axes": {"sampler": samplers},
            "sheet": {"enabled": False}, **keys}
    (tmp / f"{name}.yaml").write_text(json.dumps(conf))
    atelier("sweep", tmp / f"{name}.yaml")
    return {s: np.asarray(Image.open(tmp / name / f"png/{i:06d}.png").convert("RGB")) for i, s in enumerate(samplers)}


def pixels(out):
    return np.clip(np.rint(out.images[0] * 255), 0, 255).astype(np.uint8)


def run(pipe, config, sampler, **kw):
    cls, settings = SAMPLERS[sampler]
    pipe.scheduler = getattr(diffusers, cls).from_config(config, **settings)
    return pipe(PROMPT, negative_prompt=NEGATIVE, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                generator=torch.Generator("cpu").manual_seed(SEED), **kw)


def compare(title, ours, fn):
    for sampler, image in ours.items():
        try:
            want = pixels(fn(sampler))
        except ImportError as e:
            skip(f"{title} {sampler}", str(e).strip().split("\n")[0])
            continue
        except Exception as e:
            ok(f"{title} {sampler}", False, f"diffusers: {type(e).__name__}: {e}")
            continue
        same(f"{title} {sampler}", image, want)


base = pipeline(TINY)
config = base.scheduler.config
parts = {k: v for k, v in base.components.items()}
source, mask = pictures()


@section("sweep: text to image")
def text():
    ours = sweep("text", TINY, list(SAMPLERS))
    compare("sweep: text to image,", ours, lambda s: run(base, config, s, width=SIZE, height=SIZE, output_type="np"))


@section("sweep: img2img")
def img2img():
    pipe = StableDiffusionImg2ImgPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    ours = sweep("img2img", TINY, FEW, source=str(tmp / "source.png"), strength=0.6)
    compare("sweep: img2img,", ours, lambda s: run(pipe, config, s, image=source, strength=0.6, output_type="np"))


def inpaint_args(strength):
    return dict(image=source, mask_image=mask, strength=strength, width=SIZE, height=SIZE, output_type="np")


def ours_inpaint(name, model, samplers, strength):
    return sweep(name, model, samplers, source=str(tmp / "source.png"), mask=str(tmp / "mask.png"), strength=strength,
                 inpaint={"paste": False})


@section("sweep: inpainting, 4 channels")
def inpaint():
    pipe = StableDiffusionInpaintPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    for strength, samplers in (0.6, FEW), (1.0, ["euler", "ddim"]):
        ours = ours_inpaint(f"inpaint{strength}", TINY, samplers, strength)
        compare(f"sweep: inpainting, strength {strength},", ours, lambda s: run(pipe, config, s, **inpaint_args(strength)))


@section("sweep: inpainting, 9 channels")
def inpaint9():
    model = tmp / "tiny9"
    shutil.copytree(TINY, model)
    torch.manual_seed(5)
    unet = UNet2DConditionModel.from_config({**base.unet.config, "in_channels": 9}).eval()
    unet.save_pretrained(model / "unet")
    pipe = StableDiffusionInpaintPipeline(**{**parts, "unet": unet})
    pipe.set_progress_bar_config(disable=True)
    for strength, samplers in (0.6, ["euler", "ddim", "euler_a"]), (1.0, ["dpmpp_2m"]):
        ours = ours_inpaint(f"inpaint9_{strength}", model, samplers, strength)
        compare(f"sweep: inpainting model, strength {strength},", ours, lambda s: run(pipe, config, s, **inpaint_args(strength)))


@section("sweep: second pass")
def hires():
    pipe = StableDiffusionImg2ImgPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    modes = {"latent-nearest": dict(mode="nearest"), "latent-bilinear": dict(mode="bilinear", align_corners=False),
             "latent-bicubic": dict(mode="bicubic", align_corners=False)}
    for name, how in modes.items():
        ours = sweep(f"hires-{name}", TINY, ["ddim"], hires={"upscale": name, "scale": 1.5, "strength": 0.5})
        first = run(base, config, "ddim", width=SIZE, height=SIZE, output_type="latent").images
        large = torch.nn.functional.interpolate(first, size=[n * 3 // 2 for n in first.shape[-2:]], **how)
        compare(f"sweep: second pass, {name},", ours, lambda s: run(pipe, config, s, image=large, strength=0.5, output_type="np"))


@section("sweep: AND")
def parts():
    """A1111's sum of predictions, negative + guidance * sum of weight * (part - negative), around diffusers' UNet and Euler."""
    ours = sweep("and", TINY, ["euler"], prompt="a red house AND two cats: -0.4 AND[a:b:9] tree :0.7", prompt_rules="a1111")["euler"]
    weights = [1, -0.4, 0.7]
    cond = [base.encode_prompt(p, "cpu", 1, False)[0] for p in ("a red house", "two cats", "a tree")]
    plain = base.encode_prompt(NEGATIVE, "cpu", 1, False)[0]
    steps = diffusers.EulerDiscreteScheduler.from_config(config)
    steps.set_timesteps(STEPS)
    shape = (1, base.unet.config.in_channels, SIZE // base.vae_scale_factor, SIZE // base.vae_scale_factor)
    x = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(SEED)) * steps.init_noise_sigma
    with torch.no_grad():
        for t in steps.timesteps:
            z = steps.scale_model_input(x, t)
            u, *c = base.unet(z.repeat(4, 1, 1, 1), t, torch.cat([plain, *cond])).sample.chunk(4)
            x = steps.step(u + GUIDANCE * sum(w * (k - u) for w, k in zip(weights, c)), t, x).prev_sample
        image = base.vae.decode(x / base.vae.config.scaling_factor).sample
    want = np.clip(np.rint((image[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy() * 255), 0, 255).astype(np.uint8)
    same("sweep: AND, three parts", ours, want)


@section("sweep: tiles")
def tiles():
    whole = sweep("whole", TINY, ["ddim"], size=[128, 96], png=True)["ddim"]
    tiled = sweep("tiled", TINY, ["ddim"], size=[128, 96], vae_tile=64)["ddim"]
    ok("sweep: tiled VAE has the image's size and is another image", whole.shape == tiled.shape and not np.array_equal(whole, tiled))


shutil.rmtree(tmp, ignore_errors=True)
finish()
