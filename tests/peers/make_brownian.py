"""Vectors of tests/base/test_rng_brownian.c: increments of torchsde's BrownianTree and numpy's SeedSequence.
Needs torch, torchsde, numpy, safetensors.  python tests/peers/make_brownian.py tests/vectors/rng/brownian.safetensors"""
import sys

import numpy as np
import torch
import torchsde
from safetensors.numpy import save_file

torch.set_num_threads(1)
out = {}
for k, (entropy, spawn) in enumerate([(0, ()), (42, (0, 0)), (2**32 - 1, (5, 3)), (2**40 + 7, (1, 1)), (2**40 + 7, ())]):
    out[f"seq{k}"] = np.array(np.random.SeedSequence(entropy, spawn_key=spawn, pool_size=24).generate_state(4), dtype=np.int64)

queries = np.array([[14.614643, 8.123], [8.123, 4.796535], [4.796535, 1.2741], [1.2741, 0.24795], [0.24795, 0.0291672], [14.614643, 0.0291672]],
                   dtype=np.float32)
out["queries"] = queries
for seed in (1, 42, 1234567890123):
    tree = torchsde.BrownianTree(torch.tensor(0.0291672), torch.zeros(4, 4, 4), torch.tensor(14.614643), entropy=seed)
    w = [tree(torch.tensor(float(b)), torch.tensor(float(a))) for a, b in queries]
    out[f"w{seed}"] = torch.stack(w).numpy()
save_file(out, sys.argv[1])
