#!/usr/bin/env python3
"""Writes tests/vectors/buckets/kohya.txt with the buckets that kohya's sd-scripts choose. KOHYA: a checkout of it. The two pieces of code
are taken out of their files, which cannot be imported without much else. Lines: "set RESOLUTION MIN MAX STEPS NO_UPSCALE", "reso W H..."
and "size W H BUCKET_W BUCKET_H RESIZED_W RESIZED_H"."""
import math
import os
import random
import re
import types
from typing import *

import numpy as np

KOHYA = os.environ["KOHYA"]
OUT = os.path.join(os.path.dirname(__file__), "..", "vectors", "buckets", "kohya.txt")


def piece(path, start):
    text = open(os.path.join(KOHYA, path), encoding="utf-8").read()
    return re.search(rf"^{start}.*?(?=^\S)", text, flags=re.S | re.M).group(0)


def main():
    scope = {"math": math, "np": np, "random": random, "Tuple": Tuple, "List": List, "Optional": Optional}
    exec(piece("library/model_util.py", "def make_bucket_resolutions"), scope)
    scope["model_util"] = types.SimpleNamespace(make_bucket_resolutions=scope["make_bucket_resolutions"])
    exec(piece("library/train_util.py", "class BucketManager"), scope)
    rng = random.Random(5)
    sizes = [(512, 512), (1000, 500), (333, 1777), (64, 64), (704, 320), (4000, 3000), (576, 448), (200, 1000), (1024, 1024)]
    sizes += [(rng.randint(64, 3000), rng.randint(64, 3000)) for _ in range(60)]
    with open(OUT, "w") as f:
        for res, lo, hi, steps, no in [(512, 256, 1024, 64, False), (768, 320, 960, 64, False), (1024, 256, 2048, 32, False),
                                       (16, 8, 32, 8, False), (512, 256, 1024, 64, True), (64, 8, 128, 8, True), (640, 256, 1024, 96, False)]:
            lo -= lo % steps
            hi += -hi % steps
            m = scope["BucketManager"](no, (res, res), lo, hi, steps)
            f.write(f"set {res} {lo} {hi} {steps} {int(no)}\n")
            if not no:
                m.make_buckets()
                f.write("reso " + " ".join(f"{w} {h}" for w, h in m.predefined_resos) + "\n")
            for w, h in sizes:
                try:
                    b, r, _ = m.select_bucket(w, h)
                except ZeroDivisionError:
                    continue
                if min(b) > 0:
                    f.write(f"size {w} {h} {b[0]} {b[1]} {r[0]} {r[1]}\n")


main()
