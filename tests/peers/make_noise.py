"""Golden vectors of noise, targets and loss weights: tests/vectors/optim/noise.safetensors.

The formulas are those of kohya's sd-scripts (library/custom_train_functions.py, library/train_util.py) in PyTorch; diffusers gives the
noise schedule, noisy latents and velocities, and the flow weights (training_utils.compute_loss_weighting_for_sd3).
usage: make_noise.py OUT.safetensors    (needs torch, diffusers, safetensors)
"""
import math
import sys

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_loss_weighting_for_sd3
from safetensors.torch import save_file

torch.set_num_threads(1)
g = torch.Generator().manual_seed(11)
rand = lambda *s: torch.randn(*s, generator=g)
H, W, C = 8, 12, 4
out = {"x": rand(1, C, H, W) + 0.5, "noise": rand(1, C, H, W), "extra": rand(1, C, H, W), "channel": rand(1, C, 1, 1)}
x, noise = out["x"], out["noise"]

out["offset"] = noise + 0.1 * out["channel"]
for name, adaptive in (("adaptive", 0.3), ("adaptive_negative", -5.0)):
    strength = torch.clamp(0.1 + adaptive * x.mean(dim=(2, 3), keepdim=True).abs(), 0.0, None)
    out[name] = noise + strength * out["channel"]

up = torch.nn.Upsample(size=(H, W), mode="bilinear")
total = noise.clone()
for i, (h, w) in enumerate(((8, 12), (3, 5), (1, 2))):
    out[f"level{i}"] = rand(1, C, h, w)
    total = total + up(out[f"level{i}"]) * 0.3 ** i
out["pyramid"] = total / total.std()

sched = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
steps = torch.tensor([0, 1, 250, 600, 999])
bar = sched.alphas_cumprod.double()
out["alpha_bar"] = bar[steps].clone()
t = torch.tensor([600])
out["noisy"] = sched.add_noise(x, noise, t)
out["noisy_extra"] = sched.add_noise(x, noise + 0.2 * out["extra"], t)
out["velocity"] = sched.get_velocity(x, noise, t)
out["flow_noisy"], out["flow_target"] = (1 - 0.6) * x + 0.6 * noise, noise - x

snr = (bar / (1 - bar))[steps]
low, clamped = torch.minimum(snr, torch.full_like(snr, 5.0)), torch.clamp(snr, max=1000.0)
out["w.min_snr"], out["w.min_snr_v"] = low / snr, low / (snr + 1)
out["w.debiased"], out["w.debiased_v"] = 1 / clamped.sqrt(), 1 / (clamped + 1)
out["w.scale_v"] = clamped / (clamped + 1)
out["w.v_like"] = 1 + 1 / (clamped / (clamped + 1)) * 0.7
out["w.all_v"] = (low / (snr + 1)) * (clamped / (clamped + 1)) * (1 + 0.7 / (clamped / (clamped + 1))) * (1 / (clamped + 1))
sigma = ((1 - bar) / bar).sqrt()[steps]
hc = 0.1
out["huber.snr"] = (1 - hc) / (1 + sigma) ** 2 + hc
out["huber.exponential"] = torch.exp(-(-math.log(hc) / 1000) * steps.double()) * 2.0
out["huber.constant"] = torch.full((5,), hc * 2.0, dtype=torch.float64)
s = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
out["flow.sigma_sqrt"] = compute_loss_weighting_for_sd3("sigma_sqrt", s)
out["flow.cosmap"] = compute_loss_weighting_for_sd3("cosmap", s)

# Losses with a mask (conditional_loss, apply_masked_loss) and their gradients.
pred = (x * 0.7 + 0.3 * noise).requires_grad_(True)
mask = torch.rand(1, 1, H, W, generator=g)
out["loss.mask"] = mask
c = torch.tensor([0.35]).view(-1, 1, 1, 1)
d = pred - noise
for name, loss in (("l2", d ** 2), ("l1", d.abs()), ("huber", 2 * c * (torch.sqrt(d ** 2 + c ** 2) - c)),
                   ("smooth_l1", 2 * (torch.sqrt(d ** 2 + c ** 2) - c))):
    value = (loss * mask).mean([1, 2, 3])
    out[f"loss.{name}"] = value.detach()
    (out[f"grad.{name}"],) = torch.autograd.grad(value.sum(), pred, retain_graph=True)
out["pred"] = pred.detach()
save_file({k: v.contiguous() for k, v in out.items()}, sys.argv[1])
