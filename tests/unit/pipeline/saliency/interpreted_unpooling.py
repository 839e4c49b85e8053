"""Run by tests with TRITON_INTERPRET=1: unpooling by gathering against max_unpool2d, on the CPU."""

import sys

import torch
from torch.nn import functional

from framehaul_pipeline.saliency.unpooling import gather, places
from framehaul_pipeline.saliency.windows import Windows

torch.manual_seed(0)
for windows, size in (
    (Windows(3, 2, 1), (14, 12)),
    (Windows(3, 2, 1), (9, 11)),
    (Windows(2, 2, 0), (6, 8)),
    (Windows(3, 1, 1), (5, 5)),
):
    steps, channels = 2, 5
    # Many zeros, as behind an activation: ties, of which the first counts.
    frames = torch.relu(torch.randn(4, channels, *size))
    largest = frames.unflatten(0, (-1, steps)).amax(1)
    pooled, indices = functional.max_pool2d(largest, *windows, return_indices=True)
    values = torch.randn_like(pooled)
    expected = functional.max_unpool2d(values, indices, *windows.sides(), size)
    place = places(frames.permute(0, 2, 3, 1).contiguous(), steps, windows)
    found = gather(values.permute(0, 2, 3, 1).contiguous(), place, *size, windows)
    sys.stdout.write("equal\n" if torch.equal(found.permute(0, 3, 1, 2), expected) else "differs\n")
