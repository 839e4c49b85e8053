"""Convolutions through PyTorch, and the file that keeps the choice of cuDNN's plans."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from framehaul_pipeline.decoders.convolution import BuiltPlans, Convolutions, PlanFile


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


def test_a_choice_is_kept_for_the_next_process(tmp_path: Path) -> None:
    """And helps other sizes of the same convolution, those that won more often first."""
    path = tmp_path / "cache" / "plans.json"
    plans = PlanFile(path)
    assert plans.get("[1]", " * [3]") == ([], False)
    for size, name in (("[1]", "slow"), ("[2]", "fast"), ("[3]", "fast")):
        plans.put(size, " * [3]", name)
    plans.put("[1]", " * [4]", "other")
    again = PlanFile(path)
    assert again.get("[1]", " * [3]") == (["slow", "fast"], True)
    assert again.get("[9]", " * [3]") == (["fast", "slow"], False)
    assert again.get("[9]", " * [5]") == ([], False)
    assert [file.name for file in path.parent.iterdir()] == ["plans.json"]


@pytest.mark.parametrize("text", ["", "[]", "{", "\ud800"], ids=["empty", "list", "cut off", "no UTF-8"])
def test_a_damaged_file_counts_as_empty(tmp_path: Path, text: str) -> None:
    """Plans are timed anew, and written over it."""
    path = tmp_path / "plans.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    plans = PlanFile(path)
    assert plans.get("[1]", " * [3]") == ([], False)
    plans.put("[1]", " * [3]", "fast")
    assert PlanFile(path).get("[1]", " * [3]") == (["fast"], True)


def test_a_folder_that_cant_be_written_costs_nothing_but_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The choice holds for this process."""
    (tmp_path / "file").write_text("")
    plans = PlanFile(tmp_path / "file" / "plans.json")
    plans.put("[1]", " * [3]", "fast")
    assert plans.get("[1]", " * [3]") == (["fast"], True)
    assert "not kept" in caplog.text


def test_plans_of_sizes_that_clients_choose_are_bounded() -> None:
    """The one that wasn't used for longest goes; those of warmed sizes stay, whose workspaces CUDA graphs hold."""
    plans: BuiltPlans[int] = BuiltPlans(2)
    plans.put("warmed", 0, keep=True)
    for key in (1, 2):
        plans.put(key, key, keep=False)
    assert plans.get(1, keep=False) == 1
    assert plans.get(1, keep=True) is None
    plans.put(3, 3, keep=False)
    assert [plans.get(key, keep=False) for key in ("warmed", 1, 2, 3)] == [0, 1, None, 3]
