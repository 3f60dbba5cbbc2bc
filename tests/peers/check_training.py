"""What `atelier train` leaves behind, read by its users: textual inversions by diffusers, event files by TensorBoard."""
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from peers import TINY, atelier, diffuse, finish, ok, pipeline, psnr, same, sample, section, skip

tmp = Path(tempfile.mkdtemp(prefix="atelier-peers-"))
rng = np.random.default_rng(5)
data = tmp / "data"
data.mkdir()
for i in range(4):
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(data / f"{i}.png")
    (data / f"{i}.txt").write_text(f"picture {i}")

CONFIG = f"""
model: {TINY}
output: {tmp}/OUT
datasets: [{{path: {data}}}, {{path: {data}, repeats: 2}}]
resolution: 32
batch: 4
steps: 6
optimizer: {{lr: 0.05, weight_decay: 0}}
"""


def train(name, more):
    (tmp / f"{name}.yaml").write_text(CONFIG.replace("OUT", name) + more)
    atelier("train", tmp / f"{name}.yaml")
    return tmp / name


section("textual inversion")
for vectors in (1, 3):
    for form in ("diffusers", "a1111"):
        out = train(f"word{vectors}{form}", f"task: embedding\nembedding: {{token: '<thing>', vectors: {vectors}, init: cat, "
                    f"prompts: ['a photo of {{}}'], format: {form}}}\n")
        file = out / "embedding.safetensors"
        pipe = pipeline(TINY)
        pipe.load_textual_inversion(str(file), token=None if form == "diffusers" else "<thing>")
        rows = pipe.text_encoder.get_input_embeddings().weight.shape[0]
        ok(f"{form}, {vectors} vectors: diffusers has them", rows == pipeline(TINY).text_encoder.get_input_embeddings().weight.shape[0] + vectors)
        if form == "diffusers":
            prompt = "a photo of <thing>"
            theirs = diffuse(pipe, prompt, "ddim", 3, 5, (64, 48))
            ours = sample(TINY, prompt, tmp / "word.png", seed=3, sampler="ddim", steps=5, size="[64, 48]", embeddings=f"[{file}]")
            same(f"{vectors} vectors: the same picture", ours, theirs)
            plain = diffuse(pipe, "a photo of cat", "ddim", 3, 5, (64, 48))
            ok(f"{vectors} vectors: not the picture of the first words", psnr(theirs, plain) < 40, f"PSNR {psnr(theirs, plain):.1f} dB")

section("tensorboard")
out = train("events", "samples: {prompts: [a cat, a dog], every: 3, steps: 2}\ncaption_dropout: 0\n")
try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError:
    skip("TensorBoard reads the events", "no tensorboard")
else:
    ea = EventAccumulator(str(out / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    ea.Reload()
    tags = ea.Tags()
    for tag in ("loss/train", "gradient_norm", "learning_rate", "loss/0-data", "loss/1-data"):
        ok(f"scalars: {tag}", tag in tags["scalars"] and [e.step for e in ea.Scalars(tag)] == list(range(1, 7)), str(tags["scalars"]))
    losses = [float(line.split(",")[1]) for line in (out / "loss.csv").read_text().split()[1:]]
    ok("losses are those of loss.csv", np.allclose([e.value for e in ea.Scalars("loss/train")], losses, rtol=1e-6))
    ok("two sample prompts", len(tags["images"]) == 2, str(tags["images"]))
    images = ea.Images(tags["images"][0])
    ok("samples at 0, 3, 6", [e.step for e in images] == [0, 3, 6], str([e.step for e in images]))
    ok("a sample is its PNG", images[0].encoded_image_string == (out / "samples" / "step-00000000-00.png").read_bytes())
    ok("the configuration as text", "config" in str(tags["tensors"]), str(tags["tensors"]))
    (tmp / "events.yaml").write_text((tmp / "events.yaml").read_text() + "resume: false\n")
    atelier("train", tmp / "events.yaml")
    ea = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0})
    ea.Reload()
    ok("a second run hides the first", [e.step for e in ea.Scalars("loss/train")] == list(range(1, 7)))
finish()
