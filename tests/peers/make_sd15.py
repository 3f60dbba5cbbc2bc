"""Stable Diffusion 1.5 at full size with random weights, made by diffusers, in three forms of the same model:
build/peers/sd15 (f32, and the variant fp16), build/peers/sd15-bf16 (bf16, in shards with an index). All values are bf16
numbers, so f32 and bf16 hold the same model. The outputs of UNet and VAE are scaled to the size that trained ones have."""
import gc
import shutil
import sys

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from peers import TINY, WORK

FULL, BF16 = WORK / "sd15", WORK / "sd15-bf16"


def parts():
    torch.manual_seed(15)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                                        num_attention_heads=12, hidden_act="quick_gelu", projection_dim=768))
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
                        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4, sample_size=512)
    return text.eval(), unet.eval(), vae.eval()


@torch.no_grad()
def calibrate(text, unet, vae):
    """conv_out times a factor: noise of deviation 1, images of deviation 0.5. The prompt gets some weight too."""
    ids = torch.randint(0, 49408, (2, 77))
    # random weights make cross attention nearly uniform; sharper queries let the words matter
    for name, module in unet.named_modules():
        if name.endswith("attn2.to_q") or name.endswith("attn2.to_v"):
            module.weight.mul_(4)
    x = torch.randn(2, 4, 8, 8)
    eps = unet(x, 500, text(ids).last_hidden_state).sample
    unet.conv_out.weight.div_(eps.std())
    image = vae.decode(torch.randn(1, 4, 8, 8) * 5).sample
    vae.decoder.conv_out.weight.mul_(0.5 / image.std())
    for part in (text, unet, vae):
        for p in part.parameters():
            p.copy_(p.bfloat16().float())
        part.zero_grad(set_to_none=True)


def make():
    text, unet, vae = parts()
    calibrate(text, unet, vae)
    scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1)
    tokenizer = CLIPTokenizer.from_pretrained(TINY / "tokenizer")
    pipe = StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
                                   safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    for folder in (FULL, BF16):
        shutil.rmtree(folder, ignore_errors=True)
    fresh = FULL.with_name("sd15.part")
    shutil.rmtree(fresh, ignore_errors=True)
    pipe.save_pretrained(fresh)
    pipe.to(torch.bfloat16).save_pretrained(BF16, max_shard_size="600MB")
    pipe.to(torch.float32).to(torch.float16).save_pretrained(fresh, variant="fp16")
    fresh.rename(FULL)
    del pipe
    gc.collect()


def have():
    return (FULL / "model_index.json").exists()


if __name__ == "__main__":
    if not have() or "--force" in sys.argv:
        make()
    print(FULL)
