#!/usr/bin/env python3
"""Writes tests/vectors/text/weights.json: hidden states weighed by numpy after the published formulas (A1111 sd_emphasis.py Original and
No norm, ComfyUI sd1_clip.py encode_token_weights)."""
import json
import os

import numpy as np

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "vectors", "text", "weights.json")


def main():
    rng = np.random.default_rng(5)
    z = rng.normal(0.3, 1, (5, 3)).astype(np.float32)
    empty = rng.normal(0.3, 1, (5, 3)).astype(np.float32)
    w = np.array([1, 1.3, 0.5, -1, 1], np.float32)
    multiplied = z * w[:, None]
    out = {"z": z, "empty": empty, "weight": w, "a1111": multiplied * (z.mean(dtype=np.float64) / multiplied.mean(dtype=np.float64)),
           "a1111-no-norm": multiplied, "comfyui": (z - empty) * w[:, None] + empty, "diffusers": z}
    out["atelier"] = out["comfyui"]
    with open(OUT, "w") as f:
        json.dump({k: [float(x) for x in v.astype(np.float32).ravel()] for k, v in out.items()}, f)
        f.write("\n")


if __name__ == "__main__":
    main()
