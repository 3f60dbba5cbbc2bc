"""Textual inversions as torch.save writes them, into tests/vectors/embeddings: A1111's .pt (modules/textual_inversion), diffusers'
learned_embeds.bin, and one that would run code."""
import os
import pathlib
import sys

import torch

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/vectors/embeddings")
OUT.mkdir(parents=True, exist_ok=True)
vec = (torch.arange(64, dtype=torch.float32).reshape(2, 32) - 20) / 64
torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.nn.Parameter(vec)}, "name": "old cat", "step": 1000, "sd_checkpoint": "0123abcd",
            "sd_checkpoint_name": None, "rate": 0.005}, OUT / "a1111.pt")
torch.save({"<cat-toy>": vec[1].half()}, OUT / "learned_embeds.bin")
torch.save({"<t>": vec.t()}, OUT / "transposed.pt")
torch.save({"<t>": vec[0]}, OUT / "legacy.pt", _use_new_zipfile_serialization=False)


class Call:
    def __reduce__(self):
        return os.getcwd, ()


torch.save({"<t>": vec[0], "x": Call()}, OUT / "calls.pt")
