#!/usr/bin/python3
"""Sheet for the model card: every sample of a run.h5 with the training image nearest to it (smallest mean square difference of
16x16 means over all training images) at its right, one prompt per row.

    configs/base/card.py build/base/card/run.h5 build/base/art.h5 models/base/samples.png
"""
import sys

import h5py
import numpy as np
from PIL import Image, ImageDraw

TILE, LABEL = 64, 12


def thumbs(images):
    n, h, w, _ = images.shape
    return images.reshape(n, 16, h // 16, 16, w // 16, 3).mean(axis=(2, 4), dtype=np.float32).reshape(n, -1)


def main():
    run, art, out = sys.argv[1:4]
    with h5py.File(run, "r") as f:
        samples = f["images"][:]
        prompts = [p.decode() for p in f["meta/prompt"][:]]
    with h5py.File(art, "r") as f:
        train = np.concatenate([thumbs(f["images"][i:i + 4096]) for i in range(0, len(f["images"]), 4096)])
        mine = thumbs(samples)
        cross = (train * train).sum(1)[None] - 2 * mine @ train.T
        best = cross.argmin(1)
        distance = np.sqrt(np.maximum(cross.min(1) + (mine * mine).sum(1), 0) / mine.shape[1])
        near = np.stack([f["images"][int(i)] for i in best])
    rows = list(dict.fromkeys(prompts))
    per = max(prompts.count(p) for p in rows)
    sheet = Image.new("RGB", (per * (2 * TILE + 8), len(rows) * (TILE + LABEL + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    column = dict.fromkeys(rows, 0)
    for k, p in enumerate(prompts):
        x, y = column[p] * (2 * TILE + 8), rows.index(p) * (TILE + LABEL + 4)
        column[p] += 1
        if x == 0:
            draw.text((0, y), p, fill="black")
        sheet.paste(Image.fromarray(samples[k]), (x, y + LABEL))
        sheet.paste(Image.fromarray(near[k]), (x + TILE, y + LABEL))
    sheet.save(out, optimize=True)
    print(f"{len(prompts)} samples; rms difference to the nearest training image, of 255: "
          f"median {np.median(distance):.1f}, smallest {distance.min():.1f}")


if __name__ == "__main__":
    main()
