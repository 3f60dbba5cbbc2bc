"""What bench_gpu measures, in PyTorch on the same GPU: bf16, scaled_dot_product_attention, channels_last, plain and compiled; networks by
diffusers, LoRA by peft, on random weights of the same sizes. Lines of "peer NAME SECONDS eager|compile", tab-separated, under
bench_gpu's names; "info KEY VALUE".
   gpu_peer.py [kernels|nets|lora]... [tiny] [only=PART OF A NAME]      tiny: small shapes, on the CPU where there is no GPU"""
import statistics
import sys
import time

import torch
import torch.nn.functional as F

ARGS = sys.argv[1:]
TINY = "tiny" in ARGS
ONLY = next((a[5:] for a in ARGS if a.startswith("only=")), "")
PARTS = [a for a in ARGS if a in ("kernels", "nets", "lora")] or ["kernels", "nets", "lora"]
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
BF = dict(dtype=torch.bfloat16, device=DEVICE)


def say(*fields):
    print(*fields, sep="\t", flush=True)


def dim(value, tiny):
    return min(value, tiny) if TINY else value


def sync():
    if GPU:
        torch.cuda.synchronize()


def median_of(run, runs, count=1):
    times = []
    for _ in range(runs):
        sync()
        t = time.perf_counter()
        run()
        sync()
        times.append((time.perf_counter() - t) / count)
    return statistics.median(times)


def time_kernel(fn, sets):
    """Seconds of one call, over sets of buffers in turn, in a CUDA graph: as gpu_time in benchmarks/gpu/gpu.c."""
    for s in sets * 2:
        fn(*s)
    if not GPU:
        return median_of(lambda: [fn(*s) for s in sets], 1, len(sets))
    once = median_of(lambda: [fn(*s) for s in sets], 1, len(sets))
    rounds = max(1, min(20, int(4e-3 / (once * len(sets)))))
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(rounds):
            for s in sets:
                fn(*s)
    times = []
    for i in range(16):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        graph.replay()
        b.record()
        b.synchronize()
        if i:
            times.append(a.elapsed_time(b) * 1e-3 / (rounds * len(sets)))
    return statistics.median(times)


def measure(name, fn, make, compiled=False):
    """compiled: also by torch.compile, where it can join kernels; each takes seconds to compile."""
    if ONLY not in name:
        return
    first = make()
    size = sum(t.numel() * t.element_size() for t in first)
    l2 = torch.cuda.get_device_properties(0).L2_cache_size if GPU else 0
    sets = [first] + [make() for _ in range(0 if TINY else min(24, int(3 * l2 / size) + 1) - 1)]
    for kind in ("eager", "compile") if compiled and GPU else ("eager",):
        try:
            say("peer", name, f"{time_kernel(torch.compile(fn) if kind == 'compile' else fn, sets):.4g}", kind)
        except Exception as e:  # one shape that a library refuses is no reason to lose the others
            print(f"{name}, {kind}: {e}", file=sys.stderr)


def rand(*shape, channels_last=False):
    t = torch.rand(*shape, **BF) * 2 - 1
    return t.to(memory_format=torch.channels_last) if channels_last else t


# ---- kernels ----

def heads_of(t, h):
    return t.unflatten(-1, (h, -1)).transpose(1, 2)


def attention(name, tokens, kv, heads, d):
    lq, lk, h = dim(tokens, 16), dim(kv or tokens, 16), dim(heads, 1)
    w = h * d

    def forward(q, k, v):
        return F.scaled_dot_product_attention(heads_of(q, h), heads_of(k, h), heads_of(v, h)).transpose(1, 2).flatten(2)

    def tensors():
        return [rand(2, lq, w), rand(2, lk, w), rand(2, lk, w)]
    measure(f"attention {name}", forward, tensors)
    both(f"attention gradient {name}", forward, tensors, (0, 1, 2), lambda: rand(2, lq, w))


def both(name, forward, tensors, wrt, dy, compiled=False):
    """A gradient: forward and backward pass less the forward pass, as autograd runs it."""
    if ONLY not in name:
        return
    inputs = [t.requires_grad_(i in wrt) for i, t in enumerate(tensors())]
    g = dy()
    for kind in ("eager", "compile") if compiled and GPU else ("eager",):
        try:
            fn = torch.compile(forward) if kind == "compile" else forward
            y = fn(*inputs)
            leaves = [inputs[i] for i in wrt]

            def back():
                torch.autograd.grad(y, leaves, g, retain_graph=True)
            for _ in range(3):
                back()
            flush = torch.empty(256 << 20 if GPU else 1, dtype=torch.uint8, device=DEVICE)
            times = []
            for _ in range(1 if TINY else 25):
                flush.zero_()
                if not GPU:
                    times.append(median_of(back, 1))
                    continue
                a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                torch.cuda._sleep(1000000)  # the host is ahead of the device, so that its own time is not measured
                a.record()
                back()
                b.record()
                b.synchronize()
                times.append(a.elapsed_time(b) * 1e-3)
            say("peer", name, f"{statistics.median(times):.4g}", kind)
        except Exception as e:
            print(f"{name}, {kind}: {e}", file=sys.stderr)


def conv(name, side, ci, co, kernel, stride, gradients):
    s, i, c, pad = dim(side, 4), dim(ci, 16), dim(co, 16), kernel // 2
    o = s // stride

    def tensors():
        return [rand(2, i, s, s, channels_last=True), rand(c, i, kernel, kernel, channels_last=True), rand(c)]
    measure(f"conv {name}", lambda x, w, b: F.conv2d(x, w, b, stride, pad), tensors)
    if not gradients:
        return

    def back(mask):
        def run(dy, x, w):
            return torch.ops.aten.convolution_backward(dy, x, w, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1, mask)
        return run

    def grads():
        return [rand(2, c, o, o, channels_last=True)] + tensors()[:2]
    measure(f"conv data gradient {name}", back([True, False, False]), grads)
    measure(f"conv weight gradient {name}", back([False, True, False]), grads)


def linear(name, tokens, inner, out):
    n, k, c = dim(tokens, 8), dim(inner, 16), dim(out, 16)
    measure(f"linear {name}", F.linear, lambda: [rand(2, n, k), rand(c, k)])
    measure(f"linear data gradient {name}", torch.matmul, lambda: [rand(2, n, c), rand(c, k)])


def low_rank(name, tokens, channels, rank):
    n, c = dim(tokens, 8), dim(channels, 16)
    measure(f"linear + LoRA {name}", lambda x, w, a, b: F.linear(x, w) + F.linear(F.linear(x, a), b),
            lambda: [rand(2, n, c), rand(c, c), rand(rank, c), rand(c, rank)], True)


def group_norm(name, side, channels):
    s, c = dim(side, 4), dim(channels, 64)

    def forward(x, w, b):
        return F.silu(F.group_norm(x, 32, w, b, 1e-5))

    def tensors():
        return [rand(2, c, s, s, channels_last=True), rand(c), rand(c)]
    measure(f"group norm + silu {name}", forward, tensors, True)
    both(f"group norm + silu gradient {name}", forward, tensors, (0, 1, 2), lambda: rand(2, c, s, s, channels_last=True), True)


def layer_norm(name, tokens, channels):
    n, c = dim(tokens, 8), dim(channels, 64)

    def forward(x, w, b):
        return F.layer_norm(x, (c,), w, b, 1e-5)

    def tensors():
        return [rand(2, n, c), rand(c), rand(c)]
    measure(f"layer norm {name}", forward, tensors, True)
    both(f"layer norm gradient {name}", forward, tensors, (0, 1, 2), lambda: rand(2, n, c), True)


def elementwise():
    n, c, s, k = dim(4096, 8), dim(2560, 32), dim(128, 4), dim(320, 16)

    def geglu(x):
        a, b = x.chunk(2, -1)
        return a * F.gelu(b)
    measure("geglu 4096x2560", geglu, lambda: [rand(2, n, 2 * c)], True)
    both("geglu gradient 4096x2560", geglu, lambda: [rand(2, n, 2 * c)], (0,), lambda: rand(2, n, c), True)
    measure("silu 4096x2560", F.silu, lambda: [rand(2, n, c)])
    both("silu gradient 4096x2560", F.silu, lambda: [rand(2, n, c)], (0,), lambda: rand(2, n, c))
    measure("add 4096x2560", torch.add, lambda: [rand(2, n, c), rand(2, n, c)])
    measure("concat 128x128x320+320", lambda x, y: torch.cat([x, y], 1),
            lambda: [rand(2, k, s, s, channels_last=True), rand(2, k, s, s, channels_last=True)])
    measure("upsample 64x64x320", lambda x: F.interpolate(x, scale_factor=2), lambda: [rand(2, k, s // 2, s // 2, channels_last=True)])


def optimizers():
    kinds = [("adamw", lambda p: torch.optim.AdamW(p, lr=1e-4, fused=GPU))]
    try:
        import bitsandbytes
        kinds.append(("adamw, 8-bit moments", lambda p: bitsandbytes.optim.AdamW8bit(p, lr=1e-4)))
    except ImportError:
        say("info", "bitsandbytes", "absent")
    for name, make in kinds:
        if ONLY in name:
            p = torch.nn.Parameter(torch.rand(1 << 16 if TINY else 64 << 20, device=DEVICE))
            p.grad = torch.rand_like(p)
            step = make([p]).step
            median_of(step, 3)
            say("peer", name, f"{median_of(lambda: [step() for _ in range(10)], 5, 10):.4g}", "eager")


def kernels():
    attention("SDXL 4096, 10 heads of 64", 4096, 0, 10, 64)
    attention("SDXL 1024, 20 heads of 64", 1024, 0, 20, 64)
    attention("SDXL 4096 over 77, 10 heads of 64", 4096, 77, 10, 64)
    attention("SD1.5 4096, 8 heads of 40", 4096, 0, 8, 40)
    attention("SD1.5 1024, 8 heads of 80", 1024, 0, 8, 80)
    conv("3x3 128x128 320", 128, 320, 320, 3, 1, True)
    conv("3x3 64x64 640", 64, 640, 640, 3, 1, True)
    conv("3x3 32x32 1280", 32, 1280, 1280, 3, 1, True)
    conv("3x3 32x32 2560 to 1280", 32, 2560, 1280, 3, 1, False)
    conv("3x3 128x128 960 to 320", 128, 960, 320, 3, 1, False)
    conv("3x3 stride 2 128x128 320", 128, 320, 320, 3, 2, False)
    conv("1x1 64x64 1280 to 640", 64, 1280, 640, 1, 1, True)
    linear("4096 640 to 5120", 4096, 640, 5120)
    linear("4096 2560 to 640", 4096, 2560, 640)
    linear("1024 1280 to 10240", 1024, 1280, 10240)
    linear("1024 1280 to 1280", 1024, 1280, 1280)
    low_rank("4096 640, rank 16", 4096, 640, 16)
    low_rank("1024 1280, rank 16", 1024, 1280, 16)
    group_norm("128x128x320", 128, 320)
    group_norm("64x64x640", 64, 640)
    group_norm("32x32x1280", 32, 1280)
    layer_norm("4096x640", 4096, 640)
    layer_norm("1024x1280", 1024, 1280)
    elementwise()
    optimizers()


# ---- networks ----

def unet(kind):
    from diffusers import UNet2DConditionModel
    down, up = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
    if TINY:
        conf = dict(block_out_channels=(32, 64), layers_per_block=1, attention_head_dim=2, cross_attention_dim=16, norm_num_groups=8,
                    down_block_types=(down, "DownBlock2D"), up_block_types=("UpBlock2D", up))
    elif kind == "sd15":
        conf = dict(block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8, cross_attention_dim=768)
    else:
        conf = dict(block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
                    transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, down_block_types=("DownBlock2D", down, down),
                    up_block_types=(up, up, "UpBlock2D"))
    if kind == "sdxl":
        text, sizes = added_dims()
        conf.update(addition_embed_type="text_time", addition_time_embed_dim=sizes, projection_class_embeddings_input_dim=text + 6 * sizes,
                    use_linear_projection=True)
    with torch.device(DEVICE):
        net = UNet2DConditionModel(**conf)
    return net.to(torch.bfloat16).to(memory_format=torch.channels_last)


def added_dims():
    """Values of the pooled text embedding, and of each of the six sizes: 2816 in all."""
    return (16, 8) if TINY else (1280, 256)


def inputs(net, n, side):
    side = dim(side, 4)
    return (rand(n, 4, side, side, channels_last=True), torch.full((n,), 500, device=DEVICE),
            rand(n, 5 if TINY else 77, net.config.cross_attention_dim))


def added(net, n):
    if net.config.addition_embed_type is None:
        return {}
    sizes = torch.tensor([[1024, 1024, 0, 0, 1024, 1024]] * n, **BF)
    return {"added_cond_kwargs": {"text_embeds": rand(n, added_dims()[0]), "time_ids": sizes}}


def nets():
    for kind, cases in (("sd15", [("SD 1.5 512x512, guided step", 2, 64)]),
                        ("sdxl", [("SDXL size 1024x1024, one forward", 1, 128), ("SDXL size 1024x1024, guided step", 2, 128)])):
        cases = [c for c in cases if ONLY in c[0]]
        if not cases:
            continue
        net = unet(kind).eval()
        for variant in ("eager", "compile") if GPU else ("eager",):
            run = torch.compile(net, mode="reduce-overhead") if variant == "compile" else net
            for name, n, side in cases:
                with torch.inference_mode():
                    args, more = inputs(net, n, side), added(net, n)
                    for _ in range(4):
                        run(*args, **more)
                    say("peer", name, f"{median_of(lambda: run(*args, **more), 1 if TINY else 30):.4g}", variant)
        del net, run
        torch.cuda.empty_cache() if GPU else None


def lora():
    from peft import LoraConfig
    for batch in (1, 4) if TINY else (1, 4, 8):
        name = f"LoRA SD 1.5 512x512, batch {batch}"
        if ONLY not in name:
            continue
        net = unet("sd15").train()
        net.requires_grad_(False)
        net.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
        trained = [p for p in net.parameters() if p.requires_grad]
        for p in trained:
            p.data = p.data.float()
        optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=GPU)
        x, t, context = inputs(net, batch, 64)
        target = torch.rand_like(x)
        for variant in ("eager", "compile") if GPU else ("eager",):
            run = torch.compile(net) if variant == "compile" else net

            def step():
                with torch.autocast(DEVICE, torch.bfloat16):
                    out = run(x, t, context).sample
                F.mse_loss(out.float(), target.float()).backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                optimizer.zero_grad()
            for _ in range(3):
                step()
            say("peer", name, f"{median_of(step, 1 if TINY else 15):.4g}", variant)
        del net, run, optimizer, trained


def main():
    if not GPU and not TINY:
        sys.exit("PyTorch sees no GPU")
    torch.backends.cudnn.benchmark = True
    say("info", "torch", torch.__version__)
    for part in PARTS:
        try:
            {"kernels": kernels, "nets": nets, "lora": lora}[part]()
        except ImportError as e:
            say("info", f"peer of {part}", f"absent: {e}")


main()
