"""The simple arms of `bench.highlight_arms`: loaders in threads or processes, a queue, and a loop that waits.

Frames cross as objects; each batch is uploaded, compared and read back before the next one.
"""

from __future__ import annotations

import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np
import torch
from tests.support.planted import Planted
from torch import Tensor, nn
from torch.nn import functional

from bench.highlight_films import Loaded, Loading, load, probe
from framehaul_pipeline.embedding import efficientnet_lite
from framehaul_pipeline.embedding.embedder import Embedder, Query
from framehaul_pipeline.highlight import rank
from framehaul_pipeline.highlight.messages import Scan
from framehaul_pipeline.highlight.sample import read_picture
from framehaul_pipeline.models.embedding import EmbeddingModel
from framehaul_server.highlight.segments import split

SECONDS: Final = 5.0
PER_SECOND: Final = 2.0
DENSE_PER_SECOND: Final = 8.0
LOOKED_AT: Final = 3
MARGIN_S: Final = 1.0
"""As the server does it."""
_WAITING: Final = 16
"""Batches in the queue."""
_NORM: Final = ("running_mean", "running_var", "weight", "bias")


@dataclass(frozen=True)
class Found:
    """What came of one film."""

    start: float
    took_s: float
    device_s: float
    """From the first to the last of each batch on the device, by its own clock."""


class _Unfolded(nn.Module):
    """As `efficientnet_lite._Convolution`, with the normalisation as a step of its own."""

    def __init__(self, weights: dict[str, Tensor], convolution: str, norm: str, *, stride: int, bounded: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(weights[f"{convolution}.weight"], requires_grad=False)
        for name in _NORM:
            self.register_buffer(f"norm_{name}", weights[f"{norm}.{name}"])
        self._stride, self._bounded = stride, bounded
        self._groups = self.weight.shape[0] if self.weight.shape[1] == 1 else 1
        total = self.weight.shape[-1] - stride
        self._padding = (total // 2, total - total // 2) * 2

    def forward(self, values: Tensor) -> Tensor:
        values = functional.pad(values, self._padding)
        values = functional.conv2d(values, self.weight, None, self._stride, groups=self._groups)
        mean, variance, weight, bias = (self.get_buffer(f"norm_{name}") for name in _NORM)
        values = functional.batch_norm(values, mean, variance, weight, bias, eps=1e-3)
        return functional.relu6(values) if self._bounded else values


class EagerEmbedder(Embedder):
    """The network as it is published: float32, channels first, each normalisation by itself."""

    def __init__(self, model: EmbeddingModel, device: torch.device) -> None:
        """Load it."""
        self.model = model
        self._dtype, self._graphs = torch.float32, None
        with mock.patch.object(efficientnet_lite, "_Convolution", _Unfolded):
            self._network = efficientnet_lite.load(Path(model.path)).eval().to(device)

    def _maps(self, frames: Tensor) -> Tensor:
        if frames.dtype == torch.uint8:
            frames = frames.permute(0, 3, 1, 2).float().contiguous()
        maps: Tensor = self._network(frames)
        return maps


class Clock:
    """Device time of batches; on the CPU the time that they took."""

    def __init__(self, device: torch.device) -> None:
        """Measure on `device`."""
        self._cuda = device.type == "cuda"
        self.seconds = 0.0

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Measure one, which is waited for."""
        if not self._cuda:
            started_s = time.perf_counter()
            yield
            self.seconds += time.perf_counter() - started_s
            return
        begun, done = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begun.record()
        yield
        done.record()
        done.synchronize()
        self.seconds += begun.elapsed_time(done) / 1e3


@dataclass(eq=False)
class _Search:
    """One film's request."""

    planted: Planted
    clock: Clock
    query: Query | None = None
    times: list[float] = field(default_factory=list)
    histograms: list[Any] = field(default_factory=list)
    similarities: Any = field(default_factory=lambda: np.zeros((0, 1)))
    jobs_left: int = 0
    settled: threading.Event = field(default_factory=threading.Event)

    def known(self) -> rank.Samples:
        return rank.Samples.none(1).with_more(np.array(self.times), self.similarities, np.concatenate(self.histograms))


_handed_over: Any = None
"""In a loader's process: where batches go."""


def _take_queue(there: Any) -> None:
    global _handed_over
    _handed_over = there


def _load_here(number: int, path: Path, scan: Scan, how: Loading) -> None:
    _load(number, path, scan, how, _handed_over.put)


def _load(number: int, path: Path, scan: Scan, how: Loading, put: Callable[[Any], None]) -> None:
    for batch in load(path, scan, how):
        put((number, batch))
    put((number, None))


class SimpleArm:
    """Loaders, and one thread that has the device."""

    def __init__(
        self, embedder: Embedder, device: torch.device, how: Loading, *, loaders: int, processes: bool
    ) -> None:
        """Start `loaders` threads or processes."""
        self._embedder, self._device, self._how, self._num_loaders = embedder, device, how, loaders
        self._pool: Executor
        self._queue: Any
        if processes:
            spawn = multiprocessing.get_context("spawn")
            self._queue = spawn.Queue(_WAITING)
            self._pool = ProcessPoolExecutor(loaders, spawn, initializer=_take_queue, initargs=(self._queue,))
        else:
            self._queue = queue.Queue(_WAITING)
            self._pool = ThreadPoolExecutor(loaders)
        self._processes = processes
        self._searches: list[_Search] = []

    def close(self) -> None:
        """End the loaders."""
        self._pool.shutdown(cancel_futures=True)

    def run(self, films: list[Planted]) -> list[Found]:
        """Search all at the same time."""
        self._searches = [_Search(planted, Clock(self._device)) for planted in films]
        device = threading.Thread(target=self._serve)
        device.start()
        with ThreadPoolExecutor(len(films)) as requests:
            found = list(requests.map(self._search, range(len(films))))
        self._queue.put((0, "end"))
        device.join()
        return found

    def _search(self, number: int) -> Found:
        started_s = time.perf_counter()
        search = self._searches[number]
        info = probe(search.planted.film)
        self._queue.put((number, "pictures"))
        rate = Fraction(info.rate_numerator, info.rate_denominator)
        wanted = rank.Wanted(
            length=rank.excerpt_length(SECONDS, rate, info.duration),
            count=1,
            cuts=rank.Cuts.AVOID,
            weights=(1.0,),
        )
        self._scan(number, split(info, self._num_loaders), PER_SECOND)
        best = rank.rank(search.known(), info.duration, replace(wanted, count=LOOKED_AT)).excerpts
        self._scan(number, rank.spans_to_look_closer(best, MARGIN_S, info.duration), DENSE_PER_SECOND)
        excerpt = rank.rank(search.known(), info.duration, wanted).excerpts[0]
        return Found(excerpt.start, time.perf_counter() - started_s, search.clock.seconds)

    def _scan(self, number: int, spans: list[tuple[float, float]], per_second: float) -> None:
        search = self._searches[number]
        search.settled.clear()
        search.jobs_left = len(spans)
        jobs: list[Future[None]] = []
        for start, end in spans:
            scan = Scan(start=start, end=end, per_second=per_second)
            task = (number, search.planted.film, scan, self._how)
            if self._processes:
                jobs.append(self._pool.submit(_load_here, *task))
            else:
                jobs.append(self._pool.submit(_load, *task, self._queue.put))
        for job in jobs:
            job.result()
        search.settled.wait()

    def _serve(self) -> None:
        while True:
            number, content = self._queue.get()
            search = self._searches[number]
            if content is None:
                search.jobs_left -= 1
                if not search.jobs_left:
                    search.settled.set()
            elif isinstance(content, str):
                if content == "end":
                    return
                search.query = self._pictures(search.planted.picture)
            else:
                self._compare(search, content)

    def _pictures(self, path: Path) -> Query:
        pictures = read_picture(path.read_bytes(), path.name, self._embedder.model.picture_sizes, 1 << 26)
        features = [self._embedder.picture(torch.from_numpy(each.copy()).to(self._device)) for each in pictures]
        return Query(torch.stack(features)[None])

    def _compare(self, search: _Search, loaded: Loaded) -> None:
        times, frames, histograms = loaded
        assert search.query is not None, "its pictures came first"
        with search.clock.batch():
            first, found = search.query.compare(self._embedder.cells(torch.from_numpy(frames).to(self._device)))
            alike = found[0].cpu().numpy()
        search.times += times
        search.histograms.append(histograms)
        search.similarities = np.concatenate((search.similarities[:first], alike[:, None]))
