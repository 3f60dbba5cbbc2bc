"""Numbers in tests/sweep/test_edit.c: torch's interpolate on small latents. Prints them; run by hand."""
import torch

x = torch.tensor([[1., -2., 3.], [0.5, 4., -1.]]).reshape(1, 1, 2, 3)
for mode, keys in ("nearest", {}), ("bilinear", {"align_corners": False}), ("bicubic", {"align_corners": False}):
    print(mode, torch.nn.functional.interpolate(x, size=(3, 5), mode=mode, **keys).flatten().tolist())
