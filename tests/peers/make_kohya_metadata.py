#!/usr/bin/env python3
"""Writes tests/vectors/metadata/kohya-values.json: the ss_ values that kohya's sd-scripts give to runs on the shipped art and the modules that
its networks.lora adapts in the small model, beside the lines of an Atelier configuration that asks for the same. KOHYA: a checkout of sd-scripts. Its parser, its data sets (sizes, buckets, tags) and its
optimizers are run; the block of train_network.py that makes the values is taken out of its function. Needs torch, diffusers, transformers,
accelerate, toml, voluptuous and imagesize; OpenCV and torchvision, which only touch pixels, are stood in for.
Folders: tests/train/test_train_metadata.sh lays them out in the same way."""
import inspect
import json
import os
import re
import shutil
import sys
import tempfile
import textwrap
import types
from pathlib import Path
from unittest import mock

import diffusers
import transformers

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/vectors/metadata/kohya-values.json"
sys.path.insert(0, os.environ["KOHYA"])
# Pixels, and pipelines for sample images: nothing here needs them.
for name in ("torchvision", "cv2", "library.lpw_stable_diffusion", "library.sdxl_lpw_stable_diffusion"):
    sys.modules[name] = mock.MagicMock()

import torch
import train_network
from library import config_util, train_util
from networks import lora

# docs/kohya.md
TARGETS = "'attn*.to_q', 'attn*.to_k', 'attn*.to_v', 'attn*.to_out.0', 'ff.net*', '*.proj_in', '*.proj_out'"
CONV = "'*.conv1', '*.conv2', '*.conv_shortcut', '*.time_emb_proj', '*.downsamplers.*.conv', '*.upsamplers.*.conv'"

# Options of kohya's trainer, or a data set configuration for it; lines of Atelier's.
CASES = [
    ("folders",
     "--train_data_dir data --reg_data_dir reg --resolution 64 --enable_bucket --min_bucket_reso 32 --max_bucket_reso 128 --bucket_reso_steps 8 "
     "--train_batch_size 2 --gradient_accumulation_steps 2 --max_train_steps 20 --shuffle_caption --keep_tokens 1 --caption_extension .txt "
     "--flip_aug --cache_latents --caption_dropout_rate 0.05 --caption_tag_dropout_rate 0.1 --caption_dropout_every_n_epochs 3 "
     "--network_module networks.lora --network_dim 8 --network_alpha 4 --network_dropout 0.1 --network_args conv_dim=4 conv_alpha=1 "
     "rank_dropout=0.2 loraplus_lr_ratio=16 --scale_weight_norms 1 --learning_rate 1e-4 --unet_lr 1e-4 --text_encoder_lr 5e-5 "
     "--lr_scheduler cosine_with_restarts --lr_warmup_steps 4 --noise_offset 0.05 --adaptive_noise_scale 0.005 --min_snr_gamma 5 "
     "--loss_type huber --huber_schedule exponential --huber_c 0.2 --prior_loss_weight 0.5 --max_grad_norm 0.5 --seed 7 --save_precision fp16 "
     "--output_name out --resize_interpolation lanczos",
     None,
     ["datasets: [{path: ../kohya/data, shuffle: true, keep_tokens: 1, tag_dropout: 0.1, caption_dropout_every: 3}, "
      "{path: ../kohya/reg, is_reg: true, shuffle: true, keep_tokens: 1, tag_dropout: 0.1, caption_dropout_every: 3}]",
      "resolution: 64", "bucket: {enabled: true, min: 32, max: 128, steps: 8}", "batch: 4", "micro_batch: 2", "steps: 20", "flip: true",
      "caption_dropout: 0.05", "prior_weight: 0.5", "text_encoder: train",
      f"lora: {{rank: 8, alpha: 4, conv_rank: 4, conv_alpha: 1, dropout: 0.1, rank_dropout: 0.2, max_norm: 1, targets: [{TARGETS}, {CONV}]}}",
      "optimizer: {lr: 1e-4, text_encoder_lr: 5e-5, lora_plus: 16, schedule: cosine_restarts, warmup: 4, clip: 0.5}",
      "noise: {offset: 0.05, offset_adaptive: 0.005}", "loss: {type: huber, huber_schedule: exponential, huber_c: 0.2, min_snr: 5}"]),
    ("toml",
     "--train_batch_size 4 --max_train_steps 8 --network_module networks.lora --network_dim 16 --network_alpha 16 --network_train_unet_only "
     "--learning_rate 1e-3 --unet_lr 1e-3 --lr_scheduler constant --cache_latents --multires_noise_iterations 6 --ip_noise_gamma 0.1 "
     "--debiased_estimation_loss --zero_terminal_snr --gradient_checkpointing --seed 7 --output_name out --resize_interpolation lanczos",
     {"general": {"caption_extension": ".txt", "resize_interpolation": "lanczos"},
      "datasets": [{"resolution": 64, "batch_size": 4, "enable_bucket": True, "bucket_no_upscale": True, "bucket_reso_steps": 8, "min_bucket_reso": 32, "max_bucket_reso": 128,
                    "subsets": [{"image_dir": "data/2_sks sign", "num_repeats": 3, "class_tokens": "sks sign", "caption_prefix": "a",
                                 "keep_tokens_separator": "|||", "shuffle_caption": True},
                                {"image_dir": "other/2_sks sign", "num_repeats": 1, "caption_suffix": "x", "enable_wildcard": True,
                                 "secondary_separator": ";;", "class_tokens": "man", "flip_aug": True}]}]},
     ["datasets: [{path: '../kohya/data/2_sks sign', repeats: 3, caption: sks sign, prefix: a, shuffle: true}, {path: '../kohya/other/2_sks sign', "
      "repeats: 1, suffix: x, wildcards: true, secondary_separator: ';;', keep_separator: '', caption: man, flip: true}]",
      "resolution: 64", "bucket: {enabled: true, no_upscale: true, min: 32, max: 128, steps: 8}", "batch: 4", "micro_batch: 4", "steps: 8", "caption_dropout: 0",
      f"lora: {{rank: 16, alpha: 16, targets: [{TARGETS}]}}", "optimizer: {lr: 1e-3}", "noise: {multires_iterations: 6, perturbation: 0.1, zero_snr: true}",
      "loss: {debiased: true}", "gradient_checkpointing: true"]),
]


def lay_out(top):
    for folder, source, n in (("data/2_sks sign", "aiga", 9), ("reg/1_sign", "stickman", 3), ("other/2_sks sign", "stickman", 5)):
        (top / folder).mkdir(parents=True)
        for f in sorted((ROOT / "datasets" / source).glob("*.png"))[:n]:
            shutil.copy(f, top / folder)
            if f.with_suffix(".txt").exists() and folder[0] != "r":
                shutil.copy(f.with_suffix(".txt"), top / folder)
    (top / "data/2_sks sign/aaa.png").write_bytes((ROOT / "tests/vectors/pictures/grey16.png").read_bytes())
    (top / "data/2_sks sign/aaa.txt").write_text("Tag One, tag two ,, \u00c9t\u00e9, tag one\n", encoding="utf-8")




def datasets(args, toml):
    """The groups of train(), by the same calls."""
    if toml is None:
        toml = {"datasets": [{"subsets": config_util.generate_dreambooth_subsets_config_by_subdirs(args.train_data_dir, args.reg_data_dir)}]}
    generator = config_util.BlueprintGenerator(config_util.ConfigSanitizer(True, True, args.masked_loss, True))
    return config_util.generate_dataset_group_by_blueprint(generator.generate(toml, args).dataset_group)


def values(options, toml):
    args = train_network.setup_parser().parse_args(options.split())
    train_util.prepare_dataset_args(args, True)
    train, val = datasets(args, toml)
    net_kwargs = dict(a.split("=", 1) for a in args.network_args or [])
    source = textwrap.dedent(inspect.getsource(train_network.NetworkTrainer.train))
    block = re.search(r"^    metadata = \{.*?(?=^    # make minimum metadata)", source, flags=re.S | re.M).group(0)
    optimizer_name, optimizer_args, _ = train_util.get_optimizer(args, [torch.nn.Parameter(torch.zeros(2))])
    batches = len(train)  # of the batch size per device: the data loader's own is 1
    per_epoch = -(-batches // args.gradient_accumulation_steps)
    text = args.text_encoder_lr[0] if isinstance(args.text_encoder_lr, list) and args.text_encoder_lr else args.text_encoder_lr
    scope = {**vars(train_network), "args": args, "self": types.SimpleNamespace(update_metadata=lambda m, a: None), "session_id": 0,
             "training_started_at": 0, "text_encoder_lr": text, "train_dataset_group": train, "val_dataset_group": val,
             "train_dataloader": range(batches), "num_train_epochs": -(-args.max_train_steps // per_epoch), "model_version": "sd_v1",
             "optimizer_name": optimizer_name, "optimizer_args": optimizer_args, "use_user_config": toml is not None,
             "use_dreambooth_method": True, "net_kwargs": net_kwargs,
             "total_batch_size": args.train_batch_size * args.gradient_accumulation_steps}
    exec(textwrap.dedent(block), scope)
    return scope["metadata"]


def modules(options):
    args = train_network.setup_parser().parse_args(options.split())
    model = ROOT / "tests/vectors/sd15-tiny"
    unet, text = diffusers.UNet2DConditionModel.from_pretrained(model / "unet"), transformers.CLIPTextModel.from_pretrained(model / "text_encoder")
    # create_network adds to the class's own list where convolutions are adapted.
    lora.LoRANetwork.UNET_TARGET_REPLACE_MODULE = ["Transformer2DModel"]
    net = lora.create_network(1.0, args.network_dim, args.network_alpha, None, text, unet, **dict(a.split("=") for a in args.network_args or []))
    # Newer releases of transformers leave out "text_model", which LoRA files have.
    names = [n.lora_name.replace("lora_te_encoder", "lora_te_text_model_encoder") for n in net.text_encoder_loras]
    return sorted([n.lora_name for n in net.unet_loras] + names * (not args.network_train_unet_only))


def main():
    with tempfile.TemporaryDirectory() as tmp:
        lay_out(Path(tmp))
        os.chdir(tmp)
        out = [{"name": name, "config": lines, "values": values(options, toml), "modules": modules(options)} for name, options, toml, lines in CASES]
    OUT.write_text(json.dumps(out, indent=1, sort_keys=True) + "\n")


main()
