"""What each step of the highlight service brings, in one run: `python -m bench.highlight_arms --device cuda`.

Requests for films of a minute, of 720 and 1080 lines, come all at the same time. Every arm samples, compares and
ranks alike, reads each film in the same parts, and has as many loaders as the machine has processors. So the excerpts
are the same, and what differs is how frames come to the device, in which order, and what it does with them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import math
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

import psutil

from bench.harness import Results, percentile, table, union_length
from bench.highlight_films import Loading, make_films
from bench.processes import Server
from bench.profiling import DeviceProfiler
from framehaul_client import FrameClient

if TYPE_CHECKING:
    from tests.support.planted import Planted

    from bench.highlight_simple import Found

ARMS: Final = {
    "B0": "one process: threads; each frame converted, float32 on the CPU, eager, copies that wait",
    "B1": "only samples are converted; bytes are uploaded",
    "B2": "loaders are processes; a queue of pickles",
    "B3": "the product's readers, ring and stream: written in place",
    "B4": "earlier requests first, readers and batches",
    "B5": "folded, channels last, half precision, one CUDA graph",
    "served": "B5 by the real server, its worker and its client",
}
_SETTLE_S: Final = 0.3
"""Until ended readers are collected, whose time counts."""
_SAME_S: Final = 0.26
"""Excerpts that begin closer than this are the same: two samples apart at most, where they are dense."""
_TRACE_S: Final = 6.0
_NANOSECOND: Final = 1e-9
_SHORT_S: Final = 10
"""Of the film that arms begin with."""
_FIRST_SEED: Final = 100
_SILENT_S: Final = 60


class Arm(Protocol):
    """One way to do it."""

    def run(self, films: list[Planted]) -> list[Found]:
        """Search all at the same time."""

    def close(self) -> None:
        """End it."""


@dataclass(frozen=True)
class Round:
    """One arm, once."""

    took_s: float
    processor_s: float
    found: list[Found]
    kernels_busy: float = math.nan

    @property
    def films_per_minute(self) -> float:
        """Of all together."""
        return 60 * len(self.found) / self.took_s

    def line(self) -> str:
        """What a log says."""
        each_s = [each.took_s for each in self.found]
        return (
            f"{self.took_s:.2f} s, {self.films_per_minute:.1f} films/min, p50 {percentile(each_s, 50):.2f} s, "
            f"p95 {percentile(each_s, 95):.2f} s, processor {self.processor_s / len(self.found):.2f} s a film, "
            f"kernels busy {self.kernels_busy:.2%}, begin {' '.join(f'{each.start:.2f}' for each in self.found)}"
        )


def tree_seconds() -> float:
    """Processor time of this process and all that it started, those that have ended too."""
    here = psutil.Process()
    total = 0.0
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def measure(arm: Arm, films: list[Planted]) -> Round:
    """Search all films, once."""
    before_s = tree_seconds()
    started_s = time.perf_counter()
    found = arm.run(films)
    took_s = time.perf_counter() - started_s
    time.sleep(_SETTLE_S)
    return Round(took_s, tree_seconds() - before_s, found)


@contextlib.contextmanager
def _traced(target: str, kernels: list[tuple[float, float]]) -> Iterator[None]:
    """Have the server's worker note its kernels, which are there at the end."""
    begun, ended = threading.Event(), threading.Event()

    async def listen() -> None:
        try:
            async with (
                FrameClient(target) as client,
                contextlib.aclosing(client.trace(_TRACE_S, kernels=True)) as responses,
            ):
                async for response in responses:
                    begun.set()
                    told = response.kernels
                    for name, start_ns, duration_ns in zip(told.name, told.start_ns, told.duration_ns, strict=True):
                        if not told.names[name].startswith("Mem"):
                            start_s = start_ns * _NANOSECOND
                            kernels.append((start_s, start_s + duration_ns * _NANOSECOND))
        finally:
            begun.set()
            ended.set()

    thread = threading.Thread(target=lambda: asyncio.run(listen()))
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        thread.join()


def profiled(arm: Arm, films: list[Planted], target: str | None) -> Round:
    """The same, and for how much of it a kernel ran, as CUPTI saw it; of a server, in its first seconds."""
    if target is not None:
        kernels: list[tuple[float, float]] = []
        with _traced(target, kernels):
            run = measure(arm, films)
        return replace(run, kernels_busy=union_length(kernels) / min(_TRACE_S, run.took_s))
    profiler = DeviceProfiler()
    profiler.start()
    run = measure(arm, films)
    seen = profiler.stop()
    return replace(run, kernels_busy=seen["busy"] * seen["span_s"] / run.took_s)


class Arms:
    """All of them, each made when it is first asked for; a context manager that ends them."""

    def __init__(self, folder: Path, device_name: str, loaders: int) -> None:
        """Films lie in `folder`."""
        import torch  # not before: processes of B2 import this module, and load alone

        from bench.highlight_simple import EagerEmbedder
        from framehaul_pipeline.models.embedding import packaged_model

        self._folder, self._device, self._loaders = folder, torch.device(device_name), loaders
        self._model = packaged_model()
        self._eager = EagerEmbedder(self._model, self._device)
        self._stack = ExitStack()
        self._arms: dict[str, Arm] = {}
        self.target: str | None = None
        """Of the real server, once it is there."""

    def __enter__(self) -> Self:
        """Nothing happens."""
        return self

    def __exit__(self, *_: object) -> None:
        """End those that were made."""
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        """Whether it was made."""
        return name in self._arms

    def __getitem__(self, name: str) -> Arm:
        """An arm."""
        if name not in self._arms:
            arm = self._arms[name] = self._make(name)
            self._stack.callback(arm.close)
        return self._arms[name]

    def _make(self, name: str) -> Arm:
        from bench.highlight_own import OwnArm, ServedArm
        from bench.highlight_simple import SimpleArm
        from framehaul_pipeline.embedding.embedder import Embedder

        if name == "served":
            options = ("--highlight", "--highlight-root", str(self._folder), "--highlight-readers", str(self._loaders))
            server = self._stack.enter_context(Server(*options, "--device", str(self._device)))
            self.target = server.target
            return ServedArm(server.target)
        if name in ("B0", "B1", "B2"):
            how = Loading(every_frame=name == "B0", as_float=name == "B0")
            return SimpleArm(self._eager, self._device, how, loaders=self._loaders, processes=name == "B2")
        embedder = Embedder(self._model, self._device) if name == "B5" else self._eager
        return OwnArm(embedder, self._device, self._folder, loaders=self._loaders, by_request=name != "B3")


def summary(runs: Sequence[Round], expected: Sequence[float]) -> dict[str, float]:
    """An arm's figures; `expected` is when excerpts begin."""
    each_s = [each.took_s for run in runs for each in run.found]
    films_per_minute = statistics.median(run.films_per_minute for run in runs)
    busy = [run.kernels_busy for run in runs if not math.isnan(run.kernels_busy)] or [math.nan]
    return {
        "films_per_minute": films_per_minute,
        "spread": max(run.took_s for run in runs) / min(run.took_s for run in runs),
        "p50_s": percentile(each_s, 50),
        "p95_s": percentile(each_s, 95),
        "kernels_busy": statistics.fmean(busy),
        "kernels_ms_a_film": statistics.fmean(busy) * 60e3 / films_per_minute,
        "device_ms_a_film": statistics.fmean(each.device_s for run in runs for each in run.found) * 1e3,
        "processor_s_a_film": statistics.median(run.processor_s / len(run.found) for run in runs),
        "farthest_s": max(
            abs(each.start - start) for run in runs for each, start in zip(run.found, expected, strict=True)
        ),
    }


def report(results: Results, rounds: dict[str, list[Round]]) -> bool:
    """Add the table of the arms that ran, as far as they did; gives whether they chose the same excerpts."""
    ran = {name: runs for name, runs in rounds.items() if runs}
    expected = [each.start for each in next(iter(ran.values()))[0].found]
    found = {name: summary(runs, expected) for name, runs in ran.items()}
    rates = {name: each["films_per_minute"] for name, each in found.items()}
    rows = [
        [
            f"{name}: {ARMS[name]}",
            len(ran[name]),
            each["films_per_minute"],
            f"{each['spread']:.2f}x",
            *(f"{rates[name] / rates[base]:.2f}" if base in rates else "-" for base in ("B0", "B1")),
            *(f"{each[key]:.2f}" for key in ("p50_s", "p95_s")),
            "-" if math.isnan(each["kernels_busy"]) else f"{each['kernels_busy']:.1%}",
            each["kernels_ms_a_film"],
            each["device_ms_a_film"],
            each["processor_s_a_film"],
        ]
        for name, each in found.items()
    ]
    heads = ["arm", "rounds", "films/min", "±", "of B0", "of B1", "p50, s", "p95, s", "kernels busy"]
    heads += ["kernels, ms a film", "batches, ms a film", "processor, s a film"]
    farthest_s = max(each["farthest_s"] for each in found.values())
    same = farthest_s < _SAME_S
    results.paragraphs += [
        table(heads, rows),
        f"All arms chose {'the same' if same else 'OTHER'} excerpts: where they begin differs by {farthest_s:.2f} s "
        "at most.",
    ]
    results.figures |= found
    return same


def main() -> int:
    """Run it; gives 1 when arms chose other excerpts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--films", type=int, default=2, help="different ones; requests take turns")
    parser.add_argument("--film-seconds", type=int, default=60)
    parser.add_argument("--heights", type=int, nargs="+", default=[720, 1080], help="of films, in turns")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most-seconds", type=float, default=600.0, help="after which no arm has another round")
    parser.add_argument("--loaders", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seed", type=int, default=0, help="of the order of arms in each round")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended
    started_s, on_cuda, same = time.perf_counter(), given.device == "cuda", True
    results = Results(name="highlight-arms", title="Highlights, step by step", device=_device(given.device))
    results.figures["loaders"] = given.loaders
    with tempfile.TemporaryDirectory(prefix="bench-films-") as name:
        folder = Path(name)
        (short,) = make_films(folder, [_FIRST_SEED - 1], _SHORT_S, given.heights[:1])
        seeds = range(_FIRST_SEED, _FIRST_SEED + given.films)
        different = make_films(folder, seeds, given.film_seconds, given.heights)
        _say(started_s, f"{given.films} films")
        films = [different[index % len(different)] for index in range(given.requests)]
        sizes = ", ".join(f"{each.film.stat().st_size / 1e6:.0f} MB" for each in different)
        about = (
            f"{given.requests} requests at the same time, films of {given.film_seconds} s ({sizes}), {given.loaders} "
            f"loaders; rounds in shuffled order, the first one profiled. p50 and p95 are a film's, from its request "
            "to its answer."
        )
        order = random.Random(given.seed)
        rounds: dict[str, list[Round]] = {each: [] for each in given.arms}
        with Arms(folder, given.device, given.loaders) as arms:
            turns = [each for _ in range(given.rounds) for each in order.sample(given.arms, len(given.arms))]
            for each in turns:
                if rounds[each] and time.perf_counter() - started_s > given.most_seconds:
                    continue
                if each not in arms:
                    arms[each].run([short])  # chooses kernels
                    _say(started_s, f"{each} is ready")
                profile = on_cuda and not rounds[each]
                run = profiled(arms[each], films, arms.target if each == "served" else None) if profile else None
                rounds[each].append(run or measure(arms[each], films))
                _say(started_s, f"{each} {rounds[each][-1].line()}")
                results.paragraphs = [about]
                same = report(results, rounds)
                results.write(given.out)
    print(results.markdown())
    return 0 if same else 1


def _say(started_s: float, text: str) -> None:
    """Print it, and where every thread is if nothing follows for long."""
    print(f"{time.perf_counter() - started_s:.0f} s: {text}", flush=True)
    faulthandler.dump_traceback_later(_SILENT_S, repeat=True)


def _device(name: str) -> str:
    if name == "cpu":
        return "CPU"
    import torch

    return str(torch.cuda.get_device_name())


if __name__ == "__main__":
    raise SystemExit(main())
