"""Convolutions through PyTorch, which of cuDNN's plans are taken, and how many stay built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from framehaul_pipeline.decoders.engine import convolution
from framehaul_pipeline.decoders.engine.convolution import BuiltPlans, Convolutions, _Graph, torch_convolution
from framehaul_pipeline.decoders.engine.plans import PlanTable
from framehaul_pipeline.link.heirloom import Heirloom


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


class Counting(Convolutions):
    """Convolves through PyTorch as the library would, and notes the sizes."""

    def __post_init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def _run(self, x: Tensor, weight: Tensor, padding: int, y: Tensor, lane: int) -> None:
        self.sizes.append((x.numel(), y.numel()))
        y.copy_(torch_convolution(x, weight, padding))


@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 3)])
def test_what_is_too_large_for_the_library_is_convolved_in_parts(
    kernel: tuple[int, ...], tables: Iterator[PlanTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a part's input nor its output has more elements than cuDNN counts, if a frame hasn't."""
    monkeypatch.setattr(convolution, "_MAX_ELEMENTS", 300)
    convolutions = Counting(torch.device("cpu"), next(tables))
    x, weight = torch.randn(7, 4, 5, 3), torch.randn(6, 3, *kernel)
    torch.testing.assert_close(convolutions.run(x, weight, 1), torch_convolution(x, weight, 1))
    assert len(convolutions.sizes) > 1
    assert max(max(sizes) for sizes in convolutions.sizes) <= 300


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


# Which plan is taken


@dataclass(frozen=True)
class Plan:
    """One of cuDNN's, as the heuristics list it."""

    name: str
    ms: float
    rounding: float
    """What the sum ends in."""
    works: bool = True


class Library:
    """Stands for a graph of cuDNN's with these plans."""

    def __init__(self, *plans: Plan) -> None:
        self.plans = plans

    def get_execution_plan_count(self) -> int:
        return len(self.plans)

    def get_plan_name_at_index(self, index: int) -> str:
        return self.plans[index].name

    def build_plan_at_index(self, index: int) -> None:
        if not self.plans[index].works:
            raise RuntimeError("not on this device")

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        return index


class Server(Convolutions):
    """Convolutions by plans that take the time they say."""

    def choose(self, size: str, *plans: Plan, timing: bool, reproducible: bool) -> str:
        """The name of the plan that is taken."""
        ready = _Graph(Library(*plans), "x", "weight", "y", 0, 0, (1,))
        self._timing, self.reproducible = timing, reproducible
        self._choose(ready, size, " * [3]", {"x": torch.zeros(1), "weight": torch.ones(1), "y": torch.zeros(1)})
        return plans[ready.plan].name

    def _execute(self, ready: _Graph, tensors: dict[Any, Tensor]) -> None:
        tensors["y"].copy_(tensors["x"] + ready.graph.plans[ready.plan].rounding)

    def _time(self, ready: _Graph, tensors: dict[Any, Tensor], best_ms: float) -> float:
        del best_ms
        self._execute(ready, tensors)
        ms: float = ready.graph.plans[ready.plan].ms
        if ms < 0:
            raise RuntimeError("it failed")
        return ms


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Iterator[PlanTable]]:
    """Each of a server that has timed nothing."""
    heirlooms = [Heirloom.create() for _ in range(2)]
    yield (PlanTable(tmp_path / f"{number}.json", heirloom) for number, heirloom in enumerate(heirlooms))
    for heirloom in heirlooms:
        heirloom.close()


def server(table: PlanTable) -> Server:
    made = Server(torch.device("cpu"), None)
    made.plans = table
    return made


BROKEN, FIRST, TWIN = Plan("broken", 0, 3, works=False), Plan("first", 4, 1), Plan("twin", 2, 1)
OTHER, FAILING = Plan("other", 1, 2), Plan("failing", -1, 1)
PLANS = (BROKEN, FIRST, OTHER, TWIN, FAILING)


def test_the_fastest_plan_that_rounds_as_the_heuristics_first_is_taken_for_reproducible_ones(
    tables: Iterator[PlanTable],
) -> None:
    """Whatever a server finds the fastest, warmed or not; others take the fastest of all."""
    one, other = server(next(tables)), server(next(tables))
    assert one.choose("[1]", *PLANS, timing=True, reproducible=True) == "twin"
    assert one.choose("[1]", *PLANS, timing=True, reproducible=False) == "other"
    assert one.choose("[2]", *PLANS, timing=True, reproducible=False) == "other"
    slow_twin = (FIRST, Plan("twin", 5, 1), OTHER)
    assert other.choose("[1]", *slow_twin, timing=True, reproducible=True) == "first"
    for known in (one, other):
        assert known.choose("[3]", *PLANS, timing=False, reproducible=True) == "first"
        assert known.choose("[3]", *PLANS, timing=False, reproducible=False) == "other"
    assert one.choose("[1]", *PLANS, timing=False, reproducible=True) == "twin"
    assert one.choose("[4]", *PLANS, timing=True, reproducible=True) == "twin"


def test_trials_end_with_their_time_and_begin_with_the_likeliest(
    tables: Iterator[PlanTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heuristics' first plan; then what was the fastest at another size, and rounded as it should."""
    known = server(next(tables))
    assert known.choose("[1]", *PLANS, timing=True, reproducible=True) == "twin"
    for limit in ("_TRIAL_S", "_LIKELY_TRIAL_S"):
        monkeypatch.setattr(convolution, limit, -1.0)
    assert known.choose("[2]", *PLANS, timing=True, reproducible=True) == "twin"
    assert server(next(tables)).choose("[1]", *PLANS, timing=True, reproducible=True) == "first"


def test_a_convolution_without_a_plan_is_refused_by_name(tables: Iterator[PlanTable]) -> None:
    with pytest.raises(RuntimeError, match=r"no plan for convolution \[1\] \* \[3\]"):
        server(next(tables)).choose("[1]", BROKEN, timing=True, reproducible=False)
