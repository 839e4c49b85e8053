"""Other forms of weights: the same sums, and how large they can be."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from framehaul_pipeline.decoders.engine.weights import longest_filter, phase_weights


def causal(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve `[C, T, H, W]` as HunyuanVideo does."""
    return F.conv3d(F.pad(x[None], (1, 1, 1, 1, 2, 0), mode="replicate"), weight)[0]


@pytest.mark.parametrize("time", [True, False])
def test_one_small_causal_convolution_is_doubling_and_a_large_one(time: bool) -> None:
    """Frame `2 t` and the one before it lie in the small frame `t`; the first frame is doubled in space alone."""
    x, weight = torch.randn(3, 4, 5, 2).double(), torch.randn(6, 3, 3, 3, 3).double()
    large = F.interpolate(x, scale_factor=2, mode="nearest")
    if time:
        large = torch.cat([large[:, :1], large[:, 1:].repeat_interleave(2, dim=1)], dim=1)
    expected = causal(large, weight)
    edged = F.pad(x[None], (1, 1, 1, 1, 1 if time else 2, 0), mode="replicate")
    phases = F.conv3d(edged, phase_weights(weight, time=time))[0].view(2 if time else 1, 2, 2, 6, 4, 6, 3)
    for frame, a, b in itertools.product(range(expected.shape[1]), range(2), range(2)):
        small, phase = ((frame + 1) // 2, frame % 2) if time else (frame, 0)
        place = phases[phase, a, b, :, small, a : a + 5, b : b + 2]
        torch.testing.assert_close(place, expected[:, frame, a::2, b::2], rtol=0, atol=1e-12)


def test_no_filter_is_longer_than_the_longest_wherever_it_lies() -> None:
    """Inside and at all edges of frames, down to one position: the length is what a result can be of a unit clip."""
    weight, lengths = torch.randn(2, 2, 3, 3, 3).double(), []
    for shape in itertools.product((1, 2, 3, 4), (1, 2, 3), (1, 3)):
        size = (2, *shape)
        matrix = torch.stack(
            [causal(unit.view(size), weight).flatten() for unit in torch.eye(torch.Size(size).numel()).double()]
        )
        lengths.append(matrix.norm(dim=0).max().item())
    assert longest_filter(weight, edges=True) == pytest.approx(max(lengths))
    picture = torch.randn(2, 3, 3, 3)
    assert longest_filter(picture, edges=False) == pytest.approx(picture.flatten(1).norm(dim=1).max().item())
