"""Convolutions over tensors with channels last, each run by the fastest of cuDNN's plans that this machine has timed.

For the worker process alone. PyTorch takes the first plan that cuDNN's heuristics name, or times a few of them anew in
each process and thread. For Wan's convolutions of 96 channels another plan is 1.5 times faster, and a plan that
changes from one start to the next changes the frames' last bits. So the plans come from NVIDIA's cudnn-frontend where
it is installed: while a worker warms up, as many as a few seconds allow are timed once for a shape, the likeliest
first. The choice is kept (`plans`), and later processes build that one alone. A shape that first comes from a client
isn't timed, it takes a plan that was the fastest for the same weights at another size. Without the package, or on the
CPU, convolutions run through PyTorch.

The fastest by trial differs from server to server, and with it how sums are rounded. Convolutions that are
`reproducible` round as the first plan of cuDNN's heuristics does, which is the same one on every device of a kind:
among the plans that are timed only those count whose result is that plan's, bit for bit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from framehaul_pipeline.decoders.engine.plans import PlanTable, cache_path
from framehaul_pipeline.link.heirloom import Heirloom

MAX_CLIENT_PLANS: Final = 512
"""Of sizes that weren't warmed: a size takes about 25 for each length of chunk."""
PlanT = TypeVar("PlanT")
_MAX_WORKSPACE_BYTES: Final = 256 << 20
_MAX_ELEMENTS: Final = (1 << 31) - 1
"""Of a convolution's input and of its output, that cuDNN's kernels count."""
_TIMED_RUNS: Final = 3
_TRIAL_S: Final = 3.0
"""After which no more plans of a convolution are tried. Building one takes up to 0.4 s; the likeliest come first."""
_LIKELY_TRIAL_S: Final = 0.6
"""Likewise, where plans of the same weights at another size are tried first."""
_HEURISTIC_PLANS: Final = 4
_REPRODUCIBLE: Final = " reproducible"
_HOPELESS: Final = 1.5
"""A plan whose run takes this many times the best plan's is not timed further."""
_LOADING_MS: Final = 50.0
"""That a plan's very first run may take longer than others."""

_log = logging.getLogger(__name__)


def torch_convolution(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Convolve through PyTorch; arguments and result as in `Convolutions.run`."""
    if weight.dim() == 5:
        y = F.conv3d(x.permute(3, 0, 1, 2).unsqueeze(0), weight, padding=(0, padding, padding))
        return y[0].permute(1, 2, 3, 0).contiguous()
    return F.conv2d(x.permute(0, 3, 1, 2), weight, padding=padding).permute(0, 2, 3, 1).contiguous()


def _shape(x: Tensor, weight: Tensor, padding: int) -> tuple[int, ...]:
    """Of a convolution's result."""
    kernel = (1, *weight.shape[2:])[-3:]
    pads = (0, padding, padding)
    sizes = (size + 2 * pad - taps + 1 for size, pad, taps in zip(x.shape, pads, kernel, strict=False))
    return (*sizes, weight.shape[0])


@dataclass(slots=True, eq=False)
class _Graph:
    """A convolution that is ready to run."""

    graph: Any
    x: Any
    weight: Any
    y: Any
    plan: int
    workspace_bytes: int
    shape: tuple[int, ...]


def open_plans(device: torch.device, heirloom: Heirloom) -> PlanTable | None:
    """The plans of convolutions on `device`, None where they run through PyTorch: on the CPU."""
    if device.type != "cuda":
        return None
    version = torch.backends.cudnn.version()
    assert version is not None
    return PlanTable(cache_path(torch.cuda.get_device_name(device), version), heirloom)


class BuiltPlans(Generic[PlanT]):
    """Plans that are ready to run: those of warmed sizes for good, and the newest of others, which clients choose."""

    def __init__(self, max_others: int) -> None:
        """Keep at most `max_others` that weren't to be kept."""
        self._max_others = max_others
        self._kept: dict[Hashable, PlanT] = {}
        self._others: dict[Hashable, PlanT] = {}

    def get(self, key: Hashable, *, keep: bool) -> PlanT | None:
        """The plan for a convolution, with `keep` one that was put to be kept; None when it must be built."""
        kept = self._kept.get(key)
        if keep or kept is not None:
            return kept
        other = self._others.pop(key, None)
        if other is not None:
            self._others[key] = other
        return other

    def put(self, key: Hashable, plan: PlanT, *, keep: bool) -> None:
        """Add a plan. CUDA graphs run a plan's kernels, so a plan that one uses must be kept."""
        if keep:
            self._kept[key] = plan
            return
        self._others[key] = plan
        if len(self._others) > self._max_others:
            del self._others[next(iter(self._others))]

    def drop_others(self) -> None:
        """Forget those that weren't to be kept."""
        self._others.clear()


@dataclass(eq=False)
class Convolutions:
    """Runs convolutions on one device; all on the launch thread."""

    device: torch.device
    plans: PlanTable | None
    """None: always through PyTorch."""
    reproducible: bool = False
    """From now on, results are those of any other process on this kind of device, whatever each has timed."""
    _timing: bool = False
    _graphs: BuiltPlans[_Graph] = field(default_factory=lambda: BuiltPlans(MAX_CLIENT_PLANS))
    _cudnn: Any = None
    _handle: Any = None

    def __post_init__(self) -> None:
        """Find NVIDIA's cudnn-frontend."""
        if self.plans is None:
            return
        try:
            import cudnn
        except ImportError:
            _log.warning(
                "convolutions run through PyTorch, up to 1.5 times slower: pip install 'framehaul[cuda]' gives "
                "cudnn-frontend"
            )
            self.plans = None
            return
        self._cudnn = cudnn
        self._handle = cudnn.create_handle()

    @property
    def timing(self) -> bool:
        """Whether a shape without a known plan has all of them timed, which takes seconds."""
        return self._timing

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Within it, `timing` is true. Afterwards what was chosen without is chosen anew, as the table then says.

        The memory that trials took is given back.
        """
        self._timing = True
        try:
            yield
        finally:
            self._timing = False
            self._graphs.drop_others()
            torch.cuda.empty_cache()

    def run(self, x: Tensor, weight: Tensor, padding: int, out: Tensor | None = None, lane: int = 0) -> Tensor:
        """Convolve without bias.

        Args:
            x: `[T, H, W, C]`, contiguous.
            weight: `[C', C, kt, kh, kw]` in memory format channels_last_3d: frames are taken as they come, without
                padding in time; or `[C', C, kh, kw]` in channels_last: each frame by itself.
            padding: rows and columns of zeros on each side.
            out: `[T - kt + 1, H', W', C']` that takes the result, contiguous.
            lane: convolutions in different lanes may run at once: each has a plan of its own.

        Returns:
            `out`, or a new tensor.
        """
        if self.plans is None:
            y = torch_convolution(x, weight, padding)
            return y if out is None else out.copy_(y)
        y = x.new_empty(_shape(x, weight, padding)) if out is None else out
        before = weight.shape[2] - 1 if weight.dim() == 5 else 0
        most = max(1, min(_MAX_ELEMENTS // x[0].numel() - before, _MAX_ELEMENTS // y[0].numel()))
        steps = math.ceil(len(y) / math.ceil(len(y) / most))
        for start in range(0, len(y), steps):
            self._run(x[start : start + steps + before], weight, padding, y[start : start + steps], lane)
        return y

    def _run(self, x: Tensor, weight: Tensor, padding: int, y: Tensor, lane: int) -> None:
        key = (x.shape, weight.shape, padding, x.dtype, lane, self.reproducible)
        graph = self._graphs.get(key, keep=self.timing)
        if graph is None:
            graph = self._build(x, weight, padding)
            self._graphs.put(key, graph, keep=self.timing)
        self._execute(graph, {graph.x: x, graph.weight: weight, graph.y: y})

    def _execute(self, ready: _Graph, tensors: dict[Any, Tensor]) -> None:
        """Run a plan on the current stream. What it works in is free for whatever that stream runs next."""
        self._cudnn.set_stream(handle=self._handle, stream=torch.cuda.current_stream(self.device).cuda_stream)
        workspace = torch.empty(max(1, ready.workspace_bytes), dtype=torch.uint8, device=self.device)
        ready.graph.execute_plan_at_index(tensors, workspace, ready.plan, handle=self._handle)

    def _build(self, x: Tensor, weight: Tensor, padding: int) -> _Graph:
        assert self.plans is not None
        cudnn = self._cudnn
        image = x.permute(3, 0, 1, 2).unsqueeze(0) if weight.dim() == 5 else x.permute(0, 3, 1, 2)
        kernel = weight.shape[2:]
        pads = [0] * (len(kernel) - 2) + [padding] * 2
        y = x.new_empty(_shape(x, weight, padding))
        result = y.permute(3, 0, 1, 2).unsqueeze(0) if weight.dim() == 5 else y.permute(0, 3, 1, 2)
        element = {torch.float16: cudnn.data_type.HALF, torch.bfloat16: cudnn.data_type.BFLOAT16}[x.dtype]
        graph = cudnn.pygraph(
            handle=self._handle,
            io_data_type=element,
            intermediate_data_type=cudnn.data_type.FLOAT,
            compute_data_type=cudnn.data_type.FLOAT,
        )

        def tensor(name: str, like: Tensor) -> Any:
            return graph.tensor(name=name, dim=list(like.shape), stride=list(like.stride()), data_type=element)

        x_node, weight_node = tensor("x", image), tensor("weight", weight)
        ones = [1] * len(pads)
        y_node = graph.conv_fprop(
            image=x_node, weight=weight_node, pre_padding=pads, post_padding=pads, stride=ones, dilation=ones
        )
        y_node.set_output(True).set_data_type(element)
        y_node.set_dim(list(result.shape)).set_stride(list(result.stride()))
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        graph.check_support()
        ready = _Graph(graph, x_node, weight_node, y_node, 0, 0, tuple(y.shape))
        weights = f" * {list(weight.shape)} + {padding} {x.dtype}"
        self._choose(ready, str(list(x.shape)), weights, {x_node: x, weight_node: weight, y_node: y})
        return ready

    def _choose(self, ready: _Graph, size: str, weights: str, tensors: dict[Any, Tensor]) -> None:
        """Build the plan that is known to be the fastest; when none is known, time them."""
        assert self.plans is not None
        graph = ready.graph
        indices = range(graph.get_execution_plan_count())
        # The heuristics name the best ones first, and some twice.
        names: dict[str, int] = {}
        for index in indices:
            names.setdefault(graph.get_plan_name_at_index(index), index)
        alike, surely = self.plans.get(size, weights)
        known = alike
        if self.reproducible:
            known, surely = self.plans.get(size, weights + _REPRODUCIBLE)
            alike = [*known, *alike]
            known = known[:surely]  # one that rounds as it should at another size may not do so here
        if surely or not self.timing:
            wanted = [names[name] for name in known if name in names]
            if any(self._prepare(ready, index) for index in [*wanted, *([] if self.timing else indices)]):
                return
        first = next((name for name in names if self._prepare(ready, names[name])), None)
        if first is None:
            raise RuntimeError(f"cuDNN has no plan for convolution {size}{weights}")
        limit_s = _TRIAL_S
        if alike:
            # Plans for the same weights at another size are nearly always the fastest here too.
            likely = [*alike, first, *list(names)[:_HEURISTIC_PLANS]]
            names = {name: names[name] for name in likely if name in names}
            limit_s = _LIKELY_TRIAL_S
        fastest, chosen = self._try_all(ready, names, first, tensors, limit_s)
        self.plans.put(size, weights, fastest)
        if self.reproducible:
            self.plans.put(size, weights + _REPRODUCIBLE, chosen)
        self._prepare(ready, names[chosen])

    def _try_all(
        self, ready: _Graph, names: dict[str, int], first: str, tensors: dict[Any, Tensor], limit_s: float
    ) -> tuple[str, str]:
        """The fastest plan of `names`, and the fastest that may be chosen: one that rounds as `first`, if need be."""
        started_s, num_tried = time.monotonic(), 0
        expected = None
        if self.reproducible:
            tensors[ready.x].normal_()  # what a warm-up decodes is too plain to show how sums are rounded
            self._prepare(ready, names[first])
            self._execute(ready, tensors)
            expected = tensors[ready.y].clone()
        fastest_ms = chosen_ms = float("inf")
        fastest = chosen = first
        for name, index in names.items():
            if num_tried and time.monotonic() - started_s > limit_s:
                break
            if not self._prepare(ready, index):
                continue
            num_tried += 1
            try:
                taken_ms = self._time(ready, tensors, fastest_ms)
            except RuntimeError:
                continue
            if taken_ms < fastest_ms:
                fastest_ms, fastest = taken_ms, name
            if taken_ms < chosen_ms and (expected is None or torch.equal(tensors[ready.y], expected)):
                chosen_ms, chosen = taken_ms, name
        _log.debug(
            "convolution timed shape=%s plans=%d of %d fastest=%s ms=%.3f chosen=%s ms=%.3f",
            *(ready.shape, num_tried, len(names), fastest, fastest_ms, chosen, chosen_ms),
        )
        return fastest, chosen

    def _prepare(self, ready: _Graph, index: int) -> bool:
        try:
            ready.graph.build_plan_at_index(index)
            num_bytes = ready.graph.get_workspace_size_plan_at_index(index)
        except RuntimeError:
            return False
        if num_bytes > _MAX_WORKSPACE_BYTES:
            return False
        ready.plan, ready.workspace_bytes = index, num_bytes
        return True

    def _time(self, ready: _Graph, tensors: dict[Any, Tensor], best_ms: float) -> float:
        stream = torch.cuda.current_stream(self.device)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        taken_ms = float("inf")
        for run in range(1 + _TIMED_RUNS):
            start.record(stream)
            self._execute(ready, tensors)
            end.record(stream)
            end.synchronize()
            run_ms = start.elapsed_time(end)
            if run:
                taken_ms = min(taken_ms, run_ms)
            if min(taken_ms, run_ms if run else run_ms - _LOADING_MS) > _HOPELESS * best_ms:
                break
        return taken_ms
