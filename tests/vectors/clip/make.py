"""Makes this folder's vectors with torch and transformers: a tiny random CLIPModel, its outputs, contrastive loss and gradients.

    python tests/vectors/clip/make.py
"""
import os

import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

here = os.path.dirname(os.path.abspath(__file__))
torch.manual_seed(1)
torch.set_num_threads(1)
config = CLIPConfig(
    text_config=dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=64,
                     max_position_embeddings=7, hidden_act="quick_gelu", eos_token_id=63, bos_token_id=62, pad_token_id=63),
    vision_config=dict(hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=12,
                       patch_size=4, hidden_act="quick_gelu"),
    projection_dim=20)
model = CLIPModel(config).eval()
with torch.no_grad():  # every parameter random, so that none can be skipped unnoticed
    for name, p in model.named_parameters():
        if name == "logit_scale":
            p.fill_(1.25)
        elif p.ndim == 1:
            p.copy_(torch.randn_like(p) * 0.2 + (1 if name.endswith("norm.weight") or "norm1.weight" in name or "norm2.weight" in name or "layrnorm.weight" in name else 0))
        else:
            p.copy_(torch.randn_like(p) / p[0].numel() ** 0.5)
ids = torch.randint(0, 62, (3, 7))
ids[:, 0] = 62
ids[0, 4:], ids[1, 6:], ids[2, 2:] = 63, 63, 63
pixels = torch.randn(3, 3, 12, 12)
out = model(input_ids=ids, pixel_values=pixels, return_loss=True)
out.loss.backward()
image = model.vision_model(pixel_values=pixels).pooler_output
ref = {"input_ids": ids, "pixel_values": pixels, "logits_per_image": out.logits_per_image, "image_embeds": out.image_embeds,
       "text_embeds": out.text_embeds, "loss": out.loss, "vision_pooled": image}
for name, p in model.named_parameters():
    ref["grad." + name] = p.grad
save_file({k: v.detach().contiguous().clone() for k, v in ref.items()}, os.path.join(here, "reference.safetensors"))
model.save_pretrained(here)
