"""What bench_model.c measures, in diffusers and peft: the same lines of "key value".
   peer.py MODEL unet|vae|lora|render [f32|bf16] [size=512] [runs=3] [rank=16]"""
import sys
import time

started = time.time()
import torch  # noqa: E402


def timed(what, runs, fn):
    best = float("inf")
    for i in range(runs + 1):
        t = time.perf_counter()
        fn()
        t = time.perf_counter() - t
        if i == 0:
            print(f"{what}_first_seconds {t:.4f}")
        else:
            best = min(best, t)
    print(f"{what}_seconds {best:.4f}", flush=True)


def unet(model, dtype, size, runs, rank):
    from diffusers import UNet2DConditionModel
    net = UNet2DConditionModel.from_pretrained(model, subfolder="unet", torch_dtype=dtype).eval()
    side = size // 8
    x, context = torch.randn(2, 4, side, side, dtype=dtype), torch.randn(2, 77, net.config.cross_attention_dim, dtype=dtype)
    with torch.inference_mode():
        timed("unet", runs, lambda: net(x, 400, context))


def vae(model, dtype, size, runs, rank):
    from diffusers import AutoencoderKL
    net = AutoencoderKL.from_pretrained(model, subfolder="vae", torch_dtype=dtype).eval()
    z = torch.randn(1, 4, size // 8, size // 8, dtype=dtype)
    with torch.inference_mode():
        timed("vae", runs, lambda: net.decode(z))


def lora(model, dtype, size, runs, rank):
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig
    net = UNet2DConditionModel.from_pretrained(model, subfolder="unet", torch_dtype=dtype).train()
    net.requires_grad_(False)
    net.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    side = size // 8
    x, target = torch.randn(2, 1, 4, side, side, dtype=dtype)
    context = torch.randn(1, 77, net.config.cross_attention_dim, dtype=dtype)

    def step():
        loss = torch.nn.functional.mse_loss(net(x, torch.tensor([500]), context).sample.float(), target.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    timed("lora", runs, step)
    print(f"trained_values {sum(p.numel() for p in trained)}")


def render(model, dtype, size, runs, rank):
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained(model, torch_dtype=dtype, safety_checker=None, feature_extractor=None,
                                                   requires_safety_checker=False)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    ends = []

    def tick(p, i, t, values):
        ends.append(time.time())
        return values

    pipe("a lighthouse in a storm", negative_prompt="blurry", num_inference_steps=runs + 1, height=size, width=size,
         guidance_scale=7.5, callback_on_step_end=tick)
    step = min(b - a for a, b in zip(ends, ends[1:]))
    print(f"render_step_seconds {step:.4f}\nrender_start_overhead_seconds {ends[0] - started - step:.3f}")
    print(f"render_decode_seconds {time.time() - ends[-1]:.3f}")


def main():
    model, what, *rest = sys.argv[1:]
    dtype, keys = torch.float32, {"size": 512, "runs": 3, "rank": 16}
    for a in rest:
        if a in ("f32", "bf16"):
            dtype = torch.bfloat16 if a == "bf16" else torch.float32
        else:
            k, v = a.split("=")
            keys[k] = int(v)
    print(f"threads {torch.get_num_threads()}")
    {"unet": unet, "vae": vae, "lora": lora, "render": render}[what](model, dtype, **keys)
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            print(f"peak_rss_mib {int(line.split()[1]) // 1024}")


main()
