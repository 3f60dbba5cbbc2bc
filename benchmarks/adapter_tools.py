#!/usr/bin/env python3
"""Times `atelier resize`, `extract` and `merge` beside kohya's scripts of the same jobs, one after the other: seconds that passed, CPU
seconds (which other programs on the machine disturb less), ratio of the latter.

    KOHYA=CHECKOUT python3 benchmarks/adapter_tools.py MODEL [JOB...]

MODEL: a diffusers folder of the size of SD 1.5 (tests/peers/make_sd15.py makes one of random weights). KOHYA: a checkout of sd-scripts,
whose functions run in this process: their imports are not counted, reading and writing of files is, as for Atelier. A random LoRA of
rank 32 on 24 modules (320 to 10240 wide) is resized to rank 8, merged into the model, and extracted again from the two models; kohya's
extraction is held to those modules, as Atelier's is by --target. Needs torch, diffusers, transformers, safetensors."""
import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import diffusers
import transformers

KOHYA = os.environ["KOHYA"]
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [KOHYA, KOHYA + "/networks"]
for name in ("torchvision", "cv2", "library.lpw_stable_diffusion", "library.sdxl_lpw_stable_diffusion"):
    sys.modules[name] = mock.MagicMock()  # pixels and samples

import extract_lora_from_models
import merge_lora
import resize_lora
import torch
from library import model_util
from networks import lora
from safetensors.torch import save_file

PARTS = ("lora_unet_mid_block", "lora_unet_down_blocks_0_attentions_0")
TARGETS = ["--target", "mid_block*", "--target", "down_blocks.0.attentions.0*"]
MODEL = os.path.abspath(sys.argv[1])


def load(_, path):
    return (transformers.CLIPTextModel.from_pretrained(f"{path}/text_encoder"), None,
            diffusers.UNet2DConditionModel.from_pretrained(f"{path}/unet"))


def network(create, *args, **keys):
    net = create(*args, **keys)
    net.unet_loras = [n for n in net.unet_loras if n.lora_name.startswith(PARTS)]
    net.text_encoder_loras = []
    return net


def make_lora(path):
    unet = diffusers.UNet2DConditionModel.from_config(diffusers.UNet2DConditionModel.load_config(f"{MODEL}/unet"))
    net, rng, out = network(lora.create_network, 1.0, 32, 32, None, [], unet), torch.Generator().manual_seed(1), {}
    for n in net.unet_loras:
        for name, w in (("lora_down", n.lora_down.weight), ("lora_up", n.lora_up.weight)):
            out[f"{n.lora_name}.{name}.weight"] = torch.randn(w.shape, generator=rng) * 0.05
        out[f"{n.lora_name}.alpha"] = torch.tensor(32.0)
    save_file(out, path, {"ss_network_module": "networks.lora"})
    return len(net.unet_loras)


def kohya_resize():
    resize_lora.resize(resize_lora.setup_parser().parse_args(
        "--save_precision float --new_rank 8 --save_to kohya-8.safetensors --model lora.safetensors --device cpu".split()))


def kohya_merge():
    text, _, unet = load(False, MODEL)
    merge_lora.merge_to_sd_model(text, unet, ["lora.safetensors"], [1.0], torch.float)
    unet.save_pretrained("kohya-merged/unet")
    text.save_pretrained("kohya-merged/text_encoder")


def kohya_extract():
    create = lora.create_network
    extract_lora_from_models.args = argparse.Namespace(device=None)  # its svd reads the script's own arguments
    with mock.patch.object(model_util, "load_models_from_stable_diffusion_checkpoint", load), \
         mock.patch.object(extract_lora_from_models.lora, "create_network", lambda *a, **k: network(create, *a, **k)):
        extract_lora_from_models.svd(MODEL, "merged", "kohya-32.safetensors", 32, False, False, None, False, "cpu", "float", 1.0, 0.0, True)


JOBS = {"resize": (["resize", "lora.safetensors", "-o", "8.safetensors", "--rank", "8"], kohya_resize),
        "merge": (["merge", MODEL, "lora.safetensors", "-o", "merged"], kohya_merge),
        "extract": (["extract", MODEL, "merged", "-o", "32.safetensors", "--rank", "32", *TARGETS], kohya_extract)}


def timed(job):
    """Seconds, CPU seconds of this process and its children."""
    began, cpu = time.perf_counter(), sum(os.times()[:4])
    job()
    return time.perf_counter() - began, sum(os.times()[:4]) - cpu


def main():
    atelier = [os.environ.get("ATELIER_BIN", str(ROOT / "atelier"))]
    jobs = sys.argv[2:] or list(JOBS)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as tmp:
        os.chdir(tmp)
        print(f"{make_lora('lora.safetensors')} modules, {torch.get_num_threads()} threads", flush=True)
        if "extract" in jobs and "merge" not in jobs:
            subprocess.run(atelier + JOBS["merge"][0], check=True, stdout=subprocess.DEVNULL)
        for name in jobs:
            command, peer = JOBS[name]
            ours = timed(lambda: subprocess.run(atelier + command, check=True, stdout=subprocess.DEVNULL))
            theirs = timed(peer)
            print(f"{name:8} atelier {ours[0]:7.1f} s, CPU {ours[1]:7.2f} s  kohya {theirs[0]:7.1f} s, CPU {theirs[1]:7.2f} s  "
                  f"ratio {theirs[1] / ours[1]:.1f}", flush=True)


main()
