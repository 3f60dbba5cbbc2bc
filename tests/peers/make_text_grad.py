"""Gradients of the text encoder through the UNet's loss, by PyTorch: tests/vectors/training/text_grad.safetensors.
    loss      mean squared error of predicted noise, first reference batch, captions below
    ids       [2,77]        grad.NAME   of every text encoder parameter; of the token table only the rows of ids (rows, grad.rows)
    word.*    the same with the third token of both captions replaced by one new vector: word.vector, word.loss, word.grad
"""
import sys

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

torch.set_num_threads(1)
MODEL, OUT = "tests/vectors/sd15-tiny", "tests/vectors/training/"
if len(sys.argv) > 1:
    OUT = sys.argv[1]
text = CLIPTextModel.from_pretrained(MODEL + "/text_encoder").float()
unet = UNet2DConditionModel.from_pretrained(MODEL + "/unet").float().requires_grad_(False)
tokenizer = CLIPTokenizer.from_pretrained(MODEL + "/tokenizer")
scheduler = DDPMScheduler.from_pretrained(MODEL + "/scheduler")
batch = load_file("tests/vectors/training/batches.safetensors")
latents, noise, times = (batch["batch0." + k] for k in ("latents", "noise", "timesteps"))
noisy = scheduler.add_noise(latents, noise, times.long())
ids = tokenizer(["a red cup, clean", "the blue bird"], padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


def loss_of(hidden):
    return torch.nn.functional.mse_loss(unet(noisy, times, hidden).sample, noise)


loss = loss_of(text(ids)[0])
loss.backward()
out = {"loss": loss.detach().reshape(1), "ids": ids.to(torch.int32).contiguous()}
for name, p in text.named_parameters():
    name = name if name.startswith("text_model.") else "text_model." + name
    if name.endswith("token_embedding.weight"):
        rows = ids.unique()
        out["rows"], out["grad.rows"] = rows.to(torch.int32), p.grad[rows].contiguous()
        assert p.grad.abs().sum() == p.grad[rows].abs().sum()
    else:
        out["grad." + name] = p.grad.clone()  # the second pass below adds to p.grad

table = text.get_input_embeddings()
vector = torch.nn.Parameter(torch.linspace(-0.05, 0.05, table.weight.shape[1])[None])
plain = table.forward
table.forward = lambda i: torch.cat([(e := plain(i))[:, :3], vector.expand(e.shape[0], 1, -1), e[:, 4:]], 1)
loss = loss_of(text(ids)[0])
loss.backward()
out |= {"word.vector": vector.detach(), "word.loss": loss.detach().reshape(1), "word.grad": vector.grad.contiguous()}
save_file(out, OUT + "text_grad.safetensors")
