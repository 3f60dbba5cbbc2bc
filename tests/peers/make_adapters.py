"""Writes tests/vectors/adapters/*.safetensors: one tiny module with an adapter of peft or LyCORIS each; its input, output and gradients.

    python3 tests/peers/make_adapters.py            (needs torch, peft, lycoris_lora, safetensors)

Tensors: w, b, x, dy, y, dx, and per factor its value "f.<leaf>" and, where the reference differentiates as we do, its gradient
"g.<leaf>" (leaves as PEFT names them). Images are NCHW. Metadata: kind, factor, stride, reference.
"""
from pathlib import Path

import torch
import torch.nn as nn
from safetensors.torch import save_file

torch.set_num_threads(1)
OUT = Path(__file__).resolve().parents[1] / "vectors/adapters"
IN, MID = 8, 12


def module(kind):
    torch.manual_seed(1)
    if kind == "linear":
        return nn.Linear(IN, MID), torch.randn(3, 5, IN)
    stride, k = (2, 3) if kind == "conv2" else (1, 1) if kind == "conv1x1" else (1, 3)
    return nn.Conv2d(IN, MID, k, stride, k // 2), torch.randn(2, IN, 5, 4)


def randomize(named):
    for i, (name, p) in enumerate(sorted(named)):
        torch.manual_seed(100 + i)
        with torch.no_grad():
            if "magnitude" in name or "dora" in name:
                p.mul_(torch.empty_like(p).uniform_(0.7, 1.4))
            else:
                p.copy_(torch.randn_like(p) * 0.4)


def record(name, base, x, factors, forward, meta, grads=True):
    """factors: leaf -> tensor that requires a gradient."""
    x = x.clone().requires_grad_()
    y = forward(x)
    torch.manual_seed(7)
    dy = torch.randn_like(y)
    y.backward(dy)
    t = {"w": base.weight, "b": base.bias, "x": x, "dy": dy, "y": y, "dx": x.grad}
    for leaf, p in factors.items():
        t["f." + leaf] = p
        if grads and p.grad is not None:
            t["g." + leaf] = p.grad
    stride = base.stride[0] if isinstance(base, nn.Conv2d) else 0
    save_file({k: v.detach().float().contiguous() for k, v in t.items()}, str(OUT / f"{name}.safetensors"),
              {k: str(v) for k, v in {**meta, "stride": stride}.items()})


def with_peft(name, kind, config, family, factor, reference="peft", **kw):
    from peft import get_peft_model
    base, x = module(kind)
    net = nn.Sequential()
    net.add_module("m", base)
    model = get_peft_model(net, config(target_modules=["m"], **kw))
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    randomize(named)
    leaves = {}
    for n, p in named:
        leaf = n.split(".m.")[1].replace(".default", "")
        leaves["lora_magnitude_vector" if "magnitude" in leaf else leaf] = p
    model.train()
    record(name, base, x, leaves, model, {"kind": family, "factor": factor, "reference": reference})


def with_lycoris(name, kind, cls, family, dora=False, **kw):
    base, x = module(kind)
    m = cls("m", base, 1.0, lora_dim=kw.pop("rank"), alpha=kw.pop("alpha"), weight_decompose=dora, **kw)
    named = [(n, p) for n, p in m.named_parameters() if p.requires_grad and "org" not in n]
    randomize(named)
    leaves = {("lora_magnitude_vector" if n == "dora_scale" else n): p for n, p in named}
    m.train()
    m.apply_to()
    record(name, base, x, leaves, lambda v: m(v), {"kind": family, "factor": m.scale, "reference": "lycoris"}, grads=not dora)


def main():
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule
    from peft import LoHaConfig, LoKrConfig, LoraConfig
    OUT.mkdir(parents=True, exist_ok=True)
    for kind in ("linear", "conv", "conv2"):
        lora = dict(r=3, lora_alpha=6, init_lora_weights=False)
        with_peft(f"lora_{kind}", kind, LoraConfig, "lora", 2.0, **lora)
        with_peft(f"rslora_{kind}", kind, LoraConfig, "lora", 6 / 3 ** 0.5, use_rslora=True, **lora)
        with_peft(f"dora_{kind}", kind, LoraConfig, "lora", 2.0, use_dora=True, **lora)
        with_peft(f"loha_{kind}", kind, LoHaConfig, "loha", 1.5, r=2, alpha=3, init_weights=False)
        with_peft(f"lokr_{kind}", kind, LoKrConfig, "lokr", 0.5, r=1, alpha=0.5, decompose_both=True, decompose_factor=4,
                  init_weights=False)
        with_lycoris(f"lycoris_loha_{kind}", kind, LohaModule, "loha", rank=2, alpha=3)
        with_lycoris(f"lycoris_lokr_{kind}", kind, LokrModule, "lokr", rank=1, alpha=2, factor=2)
        with_lycoris(f"lycoris_lokr_full_{kind}", kind, LokrModule, "lokr", rank=8, alpha=2, factor=2)
        with_lycoris(f"lycoris_loha_dora_{kind}", kind, LohaModule, "loha", dora=True, rank=2, alpha=3)


main()
