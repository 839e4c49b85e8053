"""Run by tests with TRITON_INTERPRET=1: pooling, and unpooling by gathering, against PyTorch's, on the CPU."""

import sys

import torch
from torch.nn import functional

from framehaul_pipeline.saliency.pooling import gather, largest, places
from framehaul_pipeline.saliency.windows import Windows

torch.manual_seed(0)
torch.set_num_threads(1)  # with more, PyTorch leaves to chance which of two values a voxel gets
for windows, size in (
    (Windows(3, 2, 1), (6, 10)),
    (Windows(3, 2, 1), (5, 7)),
    (Windows(2, 2, 0), (4, 6)),
    (Windows(3, 1, 1), (3, 4)),
):
    steps, channels = 2, 5
    # Many zeros, as behind an activation: ties, of which the first counts.
    frames = torch.relu(torch.randn(2, channels, *size))
    highest = frames.unflatten(0, (-1, steps)).amax(1)
    pooled, indices = functional.max_pool2d(highest, *windows.sides(), return_indices=True)
    values = torch.randn_like(pooled)
    expected = functional.max_unpool2d(values, indices, *windows.sides(), size)
    place = places(frames.permute(0, 2, 3, 1).contiguous(), steps, windows)
    found = gather(values.permute(0, 2, 3, 1).contiguous(), place, *size, windows)
    sys.stdout.write("equal\n" if torch.equal(found.permute(0, 3, 1, 2), expected) else "differs\n")

clips = torch.randn(2, 3, 4, 5, channels)
for space, time in ((Windows(3, 1, 1), Windows(3, 1, 1)), (Windows(3, 2, 1), Windows(1, 1, 0))):
    sizes, strides, paddings = (tuple(each) for each in zip(time, space, space, strict=True))
    expected = functional.max_pool3d(clips.permute(0, 4, 1, 2, 3), sizes, strides, paddings).permute(0, 2, 3, 4, 1)
    sys.stdout.write("equal\n" if torch.equal(largest(clips, space, time), expected) else "differs\n")
