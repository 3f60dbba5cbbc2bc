#!/usr/bin/env python3
"""Writes tests/vectors/sdxl-tiny: diffusers' UNet with SDXL's conditioning (a pooled text embedding and six numbers of sizes), random weights,
its inputs and output."""
import os

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "vectors", "sdxl-tiny")


def main():
    torch.manual_seed(11)
    net = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=(1, 2), cross_attention_dim=12,
        transformer_layers_per_block=(1, 2), use_linear_projection=True, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=10 + 6 * 8).eval()
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim == 1:
                p.add_(torch.randn_like(p) * 0.1)
    given = {"sample": torch.randn(2, 4, 8, 6), "timestep": torch.tensor([17.0, 801.0]), "encoder_hidden_states": torch.randn(2, 5, 12),
             "text_embeds": torch.randn(2, 10), "time_ids": torch.tensor([[1024.0, 768, 0, 16, 1024, 1024], [512, 512, 3, 0, 768, 1024]])}
    with torch.no_grad():
        out = net(given["sample"], given["timestep"], given["encoder_hidden_states"],
                  added_cond_kwargs={"text_embeds": given["text_embeds"], "time_ids": given["time_ids"]}).sample
    os.makedirs(OUT, exist_ok=True)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, os.path.join(OUT, "diffusion_pytorch_model.safetensors"))
    save_file({k: v.contiguous() for k, v in {**given, "output": out}.items()}, os.path.join(OUT, "ref.safetensors"))


if __name__ == "__main__":
    main()
