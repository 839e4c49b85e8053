"""Convolutions through PyTorch, and how many of cuDNN's plans stay built."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from framehaul_pipeline.decoders.wan.convolution import BuiltPlans, Convolutions


def test_frames_are_convolved_with_channels_last() -> None:
    """Three-dimensional weights take frames as they come; two-dimensional ones take each frame by itself."""
    convolutions = Convolutions(torch.device("cpu"), None)
    x = torch.randn(5, 4, 6, 3)
    weight = torch.randn(7, 3, 3, 3, 3)
    y = convolutions.run(x, weight, 1)
    expected = F.conv3d(x.permute(3, 0, 1, 2)[None], weight, padding=(0, 1, 1))[0].permute(1, 2, 3, 0)
    assert y.shape == (3, 4, 6, 7)
    assert y.is_contiguous()
    torch.testing.assert_close(y, expected)
    out = torch.empty(5, 5, 7, 7)
    small = torch.randn(7, 3, 2, 2)
    assert convolutions.run(x, small, 1, out=out) is out
    torch.testing.assert_close(out, F.conv2d(x.permute(0, 3, 1, 2), small, padding=1).permute(0, 2, 3, 1))


def test_plans_of_sizes_that_clients_choose_are_bounded() -> None:
    """The one that wasn't used for longest goes; those of warmed sizes stay, whose kernels CUDA graphs run."""
    plans: BuiltPlans[int] = BuiltPlans(2)
    plans.put("warmed", 0, keep=True)
    for key in (1, 2):
        plans.put(key, key, keep=False)
    assert plans.get(1, keep=False) == 1
    assert plans.get(1, keep=True) is None
    plans.put(3, 3, keep=False)
    assert [plans.get(key, keep=False) for key in ("warmed", 1, 2, 3)] == [0, 1, None, 3]


def test_plans_chosen_before_the_table_was_whole_go() -> None:
    """Those of warmed sizes stay."""
    plans: BuiltPlans[int] = BuiltPlans(2)
    plans.put("warmed", 0, keep=True)
    plans.put("early", 1, keep=False)
    plans.drop_others()
    assert [plans.get(key, keep=False) for key in ("warmed", "early")] == [0, None]
