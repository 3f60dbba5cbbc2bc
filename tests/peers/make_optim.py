"""Golden vectors of the optimizers and schedules: tests/vectors/optim/optim.safetensors.

References: bitsandbytes (its plain PyTorch blockwise step), lion-pytorch, prodigyopt, schedulefree, transformers (Adafactor, schedules).
usage: make_optim.py OUT.safetensors    (needs torch, transformers, safetensors, bitsandbytes, lion-pytorch, prodigyopt, schedulefree)
"""
import sys
import types

import torch
from safetensors.torch import save_file

torch.set_num_threads(1)
STEPS = 6
out = {}


def tensors():
    """A matrix, a kernel, a bias: more than one 8-bit block, an odd size, four dimensions."""
    g = torch.Generator().manual_seed(3)
    shapes = {"w": (9, 67), "k": (5, 4, 3, 3), "b": (19,)}
    start = {n: torch.randn(s, generator=g) * 0.1 for n, s in shapes.items()}
    grads = [{n: torch.randn(s, generator=g) * 10 ** torch.empty(s).uniform_(-4, 0, generator=g) for n, s in shapes.items()}
             for _ in range(STEPS)]
    return start, grads


start, grads = tensors()
for n, t in start.items():
    out[f"start.{n}"] = t.clone()
    for s in range(STEPS):
        out[f"grad{s}.{n}"] = grads[s][n].clone()


def run(name, make, before_save=None):
    p = {n: torch.nn.Parameter(t.clone()) for n, t in start.items()}
    opt = make(list(p.values()))
    if hasattr(opt, "train"):
        opt.train()
    for s in range(STEPS):
        for n in p:
            p[n].grad = grads[s][n].clone()
        opt.step()
        if s == 0:
            for n in p:
                out[f"{name}.first.{n}"] = p[n].detach().clone()
    for n in p:
        out[f"{name}.last.{n}"] = p[n].detach().clone()
    if hasattr(opt, "eval"):
        opt.eval()
        for n in p:
            out[f"{name}.eval.{n}"] = p[n].detach().clone()
    return opt, p


from lion_pytorch import Lion
from prodigyopt import Prodigy
from schedulefree import AdamWScheduleFree
from transformers.optimization import Adafactor

run("lion", lambda p: Lion(p, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1))
run("adafactor", lambda p: Adafactor(p, scale_parameter=True, relative_step=True, warmup_init=False, weight_decay=0.01))
run("adafactor_lr", lambda p: Adafactor(p, lr=1e-2, scale_parameter=False, relative_step=False, beta1=0.9))
run("adafactor_warmup", lambda p: Adafactor(p, scale_parameter=True, relative_step=True, warmup_init=True))
for name, more in (("prodigy", {}), ("prodigy_guard", {"use_bias_correction": True, "safeguard_warmup": True, "d_coef": 2.0}),
                   ("prodigy_growth", {"growth_rate": 1.5, "d0": 1e-4})):
    opt, _ = run(name, lambda p: Prodigy(p, lr=1.0, weight_decay=0.01, **more))
    g = opt.param_groups[0]
    out[f"{name}.d"] = torch.tensor([g["d"], g["d_max"], g["d_numerator"]], dtype=torch.float64)
run("schedulefree", lambda p: AdamWScheduleFree(p, lr=1e-2, weight_decay=0.1, warmup_steps=3, foreach=False))
run("schedulefree_r", lambda p: AdamWScheduleFree(p, lr=1e-2, betas=(0.95, 0.99), r=1.0, weight_lr_power=1.0, foreach=False))

# bitsandbytes' plain PyTorch form of the blockwise step, without torch.compile.
sys.modules.setdefault("triton", types.ModuleType("triton"))
torch.compile = lambda f=None, **k: f if f else (lambda h: h)
triton = sys.modules["triton"]
triton.jit = lambda f=None, **k: f if f else (lambda h: h)
triton.autotune = lambda *a, **k: (lambda h: h)
triton.Config = lambda *a, **k: None
language = types.ModuleType("triton.language")
language.constexpr = int
language.extra = types.SimpleNamespace(libdevice=None)
language.math = types.SimpleNamespace()
sys.modules["triton.language"] = language
triton.language = language
sys.modules.setdefault("triton.language.extra", types.ModuleType("triton.language.extra"))
sys.modules["triton.language.extra"].libdevice = None
from bitsandbytes.backends.triton.kernels_optim import optimizer_update_8bit_blockwise_pytorch as step8
from bitsandbytes.functional import create_dynamic_map

maps = create_dynamic_map(signed=True), create_dynamic_map(signed=False)
out["map.signed"], out["map.unsigned"] = maps
for n in start:
    p, size = start[n].clone(), start[n].numel()
    blocks = (size + 255) // 256
    m, v = torch.zeros_like(p, dtype=torch.uint8), torch.zeros_like(p, dtype=torch.uint8)
    am, av = torch.zeros(blocks), torch.zeros(blocks)
    for s in range(STEPS):
        step8(p, grads[s][n].clone(), m, v, 0.9, 0.999, 0.0, 0.0, 1e-8, s + 1, 1e-2, maps[0], maps[1], am, av, 0.1, 1.0, False,
              optimizer_name="adam")
    out[f"adamw8.last.{n}"], out[f"adamw8.m.{n}"], out[f"adamw8.v.{n}"] = p, m.to(torch.float32), v.to(torch.float32)
    out[f"adamw8.m_max.{n}"], out[f"adamw8.v_max.{n}"] = am.flatten(), av.flatten()

# Schedules: factors of a learning rate of 1 over 40 steps, 5 of them warm-up.
from transformers.optimization import get_scheduler

for name, kind, more in (("constant", "constant_with_warmup", {}), ("linear", "linear", {}), ("cosine", "cosine", {}),
                         ("cosine_restarts", "cosine_with_restarts", {"num_cycles": 3}),
                         ("polynomial", "polynomial", {"power": 2.0, "lr_end": 0.1}), ("inverse_sqrt", "inverse_sqrt", {}),
                         ("cosine_min", "cosine_with_min_lr", {"min_lr_rate": 0.1}),
                         ("wsd", "warmup_stable_decay", {"num_decay_steps": 10, "min_lr_ratio": 0.05}),
                         ("wsd_linear", "warmup_stable_decay", {"num_decay_steps": 10, "decay_type": "linear"}),
                         ("wsd_sqrt", "warmup_stable_decay", {"num_decay_steps": 10, "decay_type": "1-sqrt"})):
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    sched = get_scheduler(kind, opt, num_warmup_steps=5, num_training_steps=40, scheduler_specific_kwargs=more)
    lrs = []
    for s in range(40):
        lrs.append(sched.get_last_lr()[0])
        opt.step()
        sched.step()
    out[f"schedule.{name}"] = torch.tensor(lrs, dtype=torch.float64)
# REX (Chen et al., arXiv:2107.04197, eq. 2): (1 - z) / (1/2 + (1 - z)/2).
z = [(s - 5) / 35 for s in range(40)]
out["schedule.rex"] = torch.tensor([s / 5 if s < 5 else (1 - z[s]) / (0.5 + 0.5 * (1 - z[s])) for s in range(40)], dtype=torch.float64)

save_file({k: t.contiguous() for k, t in out.items()}, sys.argv[1])
