"""Vectors of tests/sampler/test_kdiffusion.c: sigma lists of ComfyUI and A1111, and k-diffusion's samplers run over them with a cheap
stand-in for the network.  Needs torch, scipy, torchsde, diffusers, safetensors, k-diffusion's sampling.py (github.com/crowsonkb/k-diffusion, MIT)
and the authors' uni_pc.py (github.com/wl-zhao/UniPC, example/stable-diffusion/ldm/models/diffusion/uni_pc), which A1111 runs.
Schedules and the samplers that both lack are written here from the formulas of ComfyUI (comfy/samplers.py,
comfy/k_diffusion/sampling.py), ComfyUI-TCD (github.com/JettHu/ComfyUI-TCD) and A1111 (modules/sd_schedulers.py,
modules/sd_samplers_timesteps_impl.py).
    python tests/peers/make_kdiffusion.py path/to/k_diffusion/sampling.py path/to/uni_pc.py tests/vectors/schedulers/kdiffusion.safetensors"""
import contextlib
import importlib.util
import io
import math
import sys
import types

import numpy as np
import torch
from safetensors.numpy import save_file
from diffusers import UniPCMultistepScheduler
from scipy import stats

torch.set_num_threads(1)


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_sampling(path):
    pkg, utils = types.ModuleType("k_diffusion"), types.ModuleType("k_diffusion.utils")
    pkg.__path__ = []
    utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
    sys.modules.update({"k_diffusion": pkg, "k_diffusion.utils": utils, "torchdiffeq": types.ModuleType("torchdiffeq")})
    sys.modules["torchdiffeq"].odeint = None
    pkg.utils = utils
    return load("k_diffusion.sampling", path)


K, UNIPC = load_sampling(sys.argv[1]), load("uni_pc", sys.argv[2])
STEPS = 7
AYS = {"a1111": {"ays": [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029],
                 "ays_sdxl": [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029]},
       "comfy": {"ays": [14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092, 0.9642583904, 0.6523686016,
                         0.3977456272, 0.1515232662, 0.0291671582],
                 "ays_sdxl": [14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141, 0.5550693289,
                              0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582]}}
betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
bars = torch.cumprod(1 - betas, 0)
TABLE = {"comfy": (((1 - bars) / bars) ** 0.5).float(), "a1111": ((1 - bars.float()) / bars.float()) ** 0.5}


def sigma_of(rules, t):
    log = TABLE[rules].log()
    t = torch.as_tensor(t).float()
    low = t.floor().long().clamp(0, 999)
    return ((1 - t.frac()) * log[low] + t.frac() * log[t.ceil().long().clamp(0, 999)]).exp()


def t_of(rules, sigma):
    log, x = TABLE[rules].log(), torch.as_tensor(sigma).log()
    if rules == "comfy":
        return float((x - log).abs().argmin())
    low = int((x >= log).cumsum(0).argmax().clamp(max=998))
    w = float(((log[low] - x) / (log[low] - log[low + 1])).clamp(0, 1))
    return (1 - w) * low + w * (low + 1)


def schedule(rules, name, n):
    s = TABLE[rules]
    lo, hi, comfy = float(s[0]), float(s[-1]), rules == "comfy"
    zero = torch.zeros(1)
    if name == "normal":
        return torch.cat([sigma_of(rules, torch.linspace(999, 0, n)), zero])
    if name == "sgm_uniform":
        return torch.cat([sigma_of(rules, torch.linspace(999, 0, n + 1)[:-1]), zero])
    if name == "karras":
        return K.get_sigmas_karras(n, lo, hi)
    if name == "exponential":
        return K.get_sigmas_exponential(n, lo, hi)
    if name == "polyexponential":
        return K.get_sigmas_polyexponential(n, lo, hi, rho=1.0)
    if name == "simple":
        return torch.tensor([float(s[-(1 + int(x * (1000 / n)))]) for x in range(n)] + [0.0])
    if name == "ddim_uniform":
        return torch.cat([s[1::max(1000 // n, 1)].flip(0), zero])
    if name == "beta" and comfy:
        ts = np.rint(stats.beta.ppf(1 - np.linspace(0, 1, n, endpoint=False), 0.6, 0.6) * 999)
        return torch.tensor([float(s[int(t)]) for t in dict.fromkeys(ts)] + [0.0])
    if name == "beta":
        return torch.tensor([lo + stats.beta.ppf(x, 0.6, 0.6) * (hi - lo) for x in 1 - np.linspace(0, 1, n)] + [0.0]).float()
    if name == "kl_optimal" and comfy:
        w = torch.arange(n).float() / (n - 1)
        return torch.cat([(w * math.atan(lo) + (1 - w) * math.atan(hi)).tan(), zero])
    if name == "kl_optimal":
        w = torch.arange(n + 1) / n
        return torch.tan(w * math.atan(lo) + (1.0 - w) * math.atan(hi))
    table = np.log(np.array(AYS[rules][name]))
    points = n + 1 if comfy else n
    out = np.exp(np.interp(np.linspace(0, 1, points), np.linspace(0, 1, 11), table))
    return torch.tensor(np.append(out[:-1] if comfy else out, 0.0)).float()


g = torch.Generator().manual_seed(5)
NOISE = torch.randn(20, 1, 4, 4, 4, generator=g)
X0 = torch.randn(1, 4, 4, 4, generator=g)


class Noises:
    def __init__(self):
        self.i = 0

    def __call__(self, *args):
        self.i += 1
        return NOISE[self.i - 1]


def denoiser(rules, v):
    def model(x, sigma, **kw):
        s = sigma.reshape(-1)[0]
        out = 0.1 * (x / (s**2 + 1) ** 0.5) + math.sin(0.01 * t_of(rules, s))
        return x / (s**2 + 1) - out * s / (s**2 + 1) ** 0.5 if v else x - s * out
    return model


def ddpm(model, x, sigmas, noise_sampler=None):
    for i in range(len(sigmas) - 1):
        s, u = sigmas[i], sigmas[i + 1]
        eps = (x - model(x, s)) / s
        ac, ap = 1 / (s**2 + 1), 1 / (u**2 + 1)
        a = ac / ap
        x = (1 / a).sqrt() * (x / (1 + s**2).sqrt() - (1 - a) * eps / (1 - ac).sqrt())
        if u > 0:
            x = (x + ((1 - a) * (1 - ap) / (1 - ac)).sqrt() * noise_sampler(s, u)) * (1 + u**2).sqrt()
    return x


def lcm(model, x, sigmas, noise_sampler=None):
    for i in range(len(sigmas) - 1):
        x = model(x, sigmas[i])
        if sigmas[i + 1] > 0:
            x = x + sigmas[i + 1] * noise_sampler(sigmas[i], sigmas[i + 1])
    return x


def ipndm(model, x, sigmas):
    w, old = [[1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]], []
    for i in range(len(sigmas) - 1):
        old = [(x - model(x, sigmas[i])) / sigmas[i]] + old[:3]
        x = x + (sigmas[i + 1] - sigmas[i]) * sum(c * d for c, d in zip(w[len(old) - 1], old))
    return x


SAMPLERS = {"euler": K.sample_euler, "euler_a": K.sample_euler_ancestral, "heun": K.sample_heun, "dpm2": K.sample_dpm_2,
            "dpm2_a": K.sample_dpm_2_ancestral, "lms": K.sample_lms, "dpmpp_2s_a": K.sample_dpmpp_2s_ancestral,
            "dpmpp_sde": K.sample_dpmpp_sde, "dpmpp_2m": K.sample_dpmpp_2m, "dpmpp_2m_sde": K.sample_dpmpp_2m_sde,
            "dpmpp_3m_sde": K.sample_dpmpp_3m_sde, "ddpm": ddpm, "lcm": lcm}
SCHEDULES = ["normal", "karras", "exponential", "polyexponential", "sgm_uniform", "simple", "ddim_uniform", "beta", "kl_optimal", "ays", "ays_sdxl"]


def levels(rules, sampler, name):
    drop = sampler in ("dpm2", "dpm2_a") or (rules == "a1111" and sampler == "dpmpp_3m_sde")
    s = schedule(rules, name, STEPS + drop)
    return torch.cat([s[:-2], s[-1:]]) if drop else s


def run(rules, sampler, name, v=False, **kw):
    fn, sigmas = SAMPLERS[sampler], levels(rules, sampler, name)
    if sampler not in ("euler", "heun", "dpm2", "lms", "dpmpp_2m", "ipndm"):
        kw["noise_sampler"] = Noises()
    if sampler not in ("ddpm", "lcm", "ipndm"):
        kw["disable"] = True
    return fn(denoiser(rules, v), X0 * sigmas[0], sigmas, **kw).numpy().reshape(-1)


def unipc(name):
    """ComfyUI's uni_pc (comfy/extra_samplers/uni_pc.py sample_unipc): B(h) = h of order 3, the last but one level dropped, 0.001 for 0;
    by diffusers' UniPC over these levels."""
    s = schedule("comfy", name, STEPS + 1).double()
    s = torch.cat([s[:-2], torch.tensor([0.001], dtype=torch.float64)])
    d = UniPCMultistepScheduler(solver_order=3, solver_type="bh1", lower_order_final=True)
    d.set_timesteps(STEPS)
    d.sigmas, d.timesteps = s, torch.arange(STEPS)
    x, model = X0.double() * s[0] / (1 + s[0] ** 2) ** 0.5, denoiser("comfy", False)
    for i in range(STEPS):
        ve = x * (1 + s[i] ** 2) ** 0.5
        x = d.step((ve - model(ve, s[i])) / s[i], d.timesteps[i], x).prev_sample
    return (x * (1 + s[-1] ** 2) ** 0.5).numpy().reshape(-1)


def deis(name):
    """ComfyUI's deis (comfy/k_diffusion/deis.py, "tab"): third order in the time t of a linear VP process whose sigma is 0.002 at 0.001
    and 80 at 1; the weights are sums over 10000 points of a Lagrange polynomial times -0.5 (log alpha)' / sqrt(alpha (1 - alpha))."""
    s = schedule("comfy", name, STEPS).double()
    low, high = math.log1p(0.002**2), math.log1p(80**2)
    slope = 2 * (low / 1e-3 - high) / (1e-3 - 1)
    first = high - 0.5 * slope
    t = (torch.sqrt(first**2 + 2 * slope * torch.log1p(s**2)) - first) / slope
    x, model, old = X0.double() * s[0], denoiser("comfy", False), []
    for i in range(STEPS):
        old = [(x - model(x, s[i])) / s[i]] + old[:2]
        if len(old) == 1 or s[i + 1] <= 0:
            x = x + (s[i + 1] - s[i]) * old[0]
            continue
        tau, known = torch.linspace(float(t[i]), float(t[i + 1]), 10000, dtype=torch.float64), [t[i - k] for k in range(len(old))]
        alpha = torch.exp(-0.5 * tau**2 * slope - tau * first)
        speed = 0.5 * (tau * slope + first) / torch.sqrt(alpha * (1 - alpha))
        for j, d in enumerate(old):
            poly = math.prod([(tau - known[k]) / (known[j] - known[k]) for k in range(len(old)) if k != j], start=1)
            x = x + (speed * poly).sum() * (t[i + 1] - t[i]) / 10000 * d
    return x.numpy().reshape(-1)


def tcd(name, eta):
    """ComfyUI-TCD's sample_tcd over ComfyUI's own table: from each level down to the timestep floor((1 - eta) t), and noise up to it."""
    sigmas, model, x, noise = schedule("comfy", name, STEPS), denoiser("comfy", False), X0, Noises()
    x = x * sigmas[0]
    t = torch.tensor([t_of("comfy", s) for s in sigmas[:-1]] + [0.0])
    low = bars.float()[torch.floor((1 - eta) * t).long()]
    for i in range(STEPS):
        d, b, to = model(x, sigmas[i]), low[i + 1], sigmas[i + 1]
        x = b.sqrt() * d + (1 - b).sqrt() * (x - d) / sigmas[i]
        if eta > 0 and to > 0:
            x = x / b.sqrt() + noise() * (to**2 + 1 - 1 / b).sqrt()
        else:
            x = x * (to**2 + 1).sqrt()
    return x.numpy().reshape(-1)


STRENGTH, SOURCE = 0.6, NOISE[19]
REPAINT = (torch.arange(64).reshape(1, 4, 4, 4) % 3) / 2


def edit(rules, sampler, name, masked):
    """img2img and inpainting. A1111: modules/sd_samplers_common.py setup_img2img_steps, sd_samplers_cfg_denoiser.py apply_blend;
    ComfyUI: comfy/samplers.py KSampler.set_steps, KSamplerX0Inpaint."""
    sigmas = schedule(rules, name, int(STEPS / STRENGTH))[-STEPS - 1:] if rules == "comfy" else levels(rules, sampler, name)[STEPS - int(STRENGTH * STEPS) - 1:]
    model = denoiser(rules, False)

    def blended(x, sigma, **kw):
        if rules == "comfy":
            x = x * REPAINT + (X0 * sigma.reshape(-1)[0] + SOURCE) * (1 - REPAINT)
        return model(x, sigma, **kw) * REPAINT + SOURCE * (1 - REPAINT)

    kw = {} if sampler in ("euler", "heun", "dpmpp_2m") else {"noise_sampler": Noises()}
    return SAMPLERS[sampler](blended if masked else model, X0 * sigmas[0] + SOURCE, sigmas, disable=True, **kw).numpy().reshape(-1)


class Hijack:
    randn_like = staticmethod(Noises())

    def __getattr__(self, name):
        return getattr(torch, name)


def timesteps(kind):
    """A1111's DDIM and PLMS over range(0, 1000, 1000 // steps) + 1."""
    t, ac, x, old = torch.arange(0, 1000, 1000 // STEPS) + 1, bars.float(), X0.clone(), []
    t = t.clip(0, 999)
    model = lambda x, t: 0.1 * x + math.sin(0.01 * float(t))
    w = [[1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
    for i in range(len(t) - 1, 0, -1):
        a, p = ac[t[i]], ac[t[i - 1]]
        move = lambda e: p.sqrt() * (x - (1 - a).sqrt() * e) / a.sqrt() + (1 - p).sqrt() * e
        e = model(x, t[i])
        if kind == "ddim":
            x = move(e)
            continue
        blend = (e + model(move(e), t[i - 1])) / 2 if not old else sum(c * d for c, d in zip(w[len(old)], [e] + old))
        x, old = move(blend), ([e] + old)[:3]
    return x.numpy().reshape(-1)


def unipc_ldm(strength):
    """A1111's UniPC: the authors' multistep solver with A1111's choices (bh1, order 3, time_uniform) over as many steps as its list of
    timesteps is long; img2img starts at the last timestep used and takes the noise of the one after it."""
    t, ac = (torch.arange(0, 1000, 1000 // STEPS) + 1).clip(0, 999), bars.float().double()
    x, start = X0.double(), None
    if strength < 1:
        used = int(strength * STEPS)
        x = SOURCE * ac[t[used]].sqrt() + X0 * (1 - ac[t[used]]).sqrt()
        t = t[:used]
        start = float(t[-1] + 1) / 1000
    torch.set_default_dtype(torch.float64)
    model = lambda x, t: 0.1 * x + torch.sin(0.01 * (t - 1 / 1000) * 1000).reshape(-1, 1, 1, 1)
    solver = UNIPC.UniPC(model, UNIPC.NoiseScheduleVP("discrete", alphas_cumprod=ac), predict_x0=True, variant="bh1")
    with contextlib.redirect_stdout(io.StringIO()):
        x = solver.sample(x, steps=len(t), t_start=start, skip_type="time_uniform", method="multistep", order=3, lower_order_final=True)
    torch.set_default_dtype(torch.float32)
    return x.numpy().reshape(-1)


out = {"x0": X0.numpy().reshape(-1), "noise": NOISE.numpy().reshape(20, -1)}
SAMPLERS_COMFY = dict(SAMPLERS, ipndm=ipndm)
for rules in ("comfy", "a1111"):
    for name in SCHEDULES:
        out[f"{rules}/{name}"] = schedule(rules, name, STEPS).numpy().astype(np.float32)
    SAMPLERS = SAMPLERS_COMFY if rules == "comfy" else {k: f for k, f in SAMPLERS_COMFY.items() if k not in ("ipndm", "lcm", "ddpm")}
    for sampler in SAMPLERS:
        for name in SCHEDULES:
            if rules == "a1111" and name == "kl_optimal" and sampler in ("dpm2", "dpm2_a", "dpmpp_3m_sde"):
                continue  # the list does not end with 0: its last level is dropped in place of the one before
            out[f"{rules}/{sampler}/{name}"] = run(rules, sampler, name)
    for sampler in ("euler", "euler_a", "heun", "dpmpp_2m", "dpmpp_2m_sde"):
        for name in ("normal", "karras"):
            out[f"{rules}/{sampler}/{name}/img2img"] = edit(rules, sampler, name, False)
            out[f"{rules}/{sampler}/{name}/inpaint"] = edit(rules, sampler, name, True)
    for sampler in ("euler", "dpmpp_2m"):
        out[f"{rules}/{sampler}/karras/v"] = run(rules, sampler, "karras", v=True)
    for sampler in ("euler_a", "dpmpp_2s_a", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde", "dpm2_a"):
        out[f"{rules}/{sampler}/karras/eta"] = run(rules, sampler, "karras", eta=0.6, s_noise=1.01)
    for sampler in ("euler", "heun", "dpm2"):
        K.torch = Hijack()
        Hijack.randn_like = staticmethod(Noises())
        out[f"{rules}/{sampler}/karras/churn"] = run(rules, sampler, "karras", s_churn=2.0, s_tmin=0.1, s_tmax=9.0, s_noise=1.003)
        K.torch = torch
for name in ("normal", "karras", "sgm_uniform", "exponential"):
    out[f"comfy/unipc/{name}"] = unipc(name)
    out[f"comfy/deis/{name}"] = deis(name)
for name in ("simple", "sgm_uniform"):
    out[f"comfy/tcd/{name}"] = tcd(name, 0.3)
    out[f"comfy/tcd/{name}/eta"] = tcd(name, 0.6)
    out[f"comfy/tcd/{name}/still"] = tcd(name, 0.0)
out["a1111/unipc/automatic"] = unipc_ldm(1)
out["a1111/unipc/automatic/img2img"] = unipc_ldm(STRENGTH)
out["a1111/ddim"] = timesteps("ddim")
out["a1111/plms"] = timesteps("plms")
save_file({k: np.ascontiguousarray(v, dtype=np.float32) for k, v in out.items()}, sys.argv[3])
print(len(out), "tensors")
