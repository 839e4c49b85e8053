"""How fast films are sampled: `python -m bench.sampling [--film FILM ...]`; without one, some are made.

Every frame decoded and converted, as simple programs do; every frame decoded, and the samples alone converted; our
samples, the same frames, by one process and by one for each processor; and key frames alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import av
import numpy as np

from bench.harness import Results, rotated, table
from framehaul_pipeline.highlight.messages import Scan
from framehaul_pipeline.highlight.sample import Film, OwnPosition

_ROUNDS: Final = 3
_SIDE: Final = 224
_PER_SECOND: Final = 2.0
EVERYTHING: Final = "decode and convert everything"
ONE: Final = "samples, one process"
KEYS: Final = "key frames alone, one process"


class Kind(NamedTuple):
    """How a film is encoded, and how many times as fast samples and key frames alone must be at least."""

    codec: str = "libx264"
    options: Mapping[str, str] = MappingProxyType({})
    group_s: int = 5
    samples: float = 2.2
    keys: float = 10.0


KINDS: Final = {
    "H.264": Kind(),
    "H.264, a key frame a second": Kind(group_s=1, keys=0),
    "H.264 without B-frames": Kind(options={"bf": "0"}, samples=0),
    "HEVC": Kind("libx265", {"x265-params": "log-level=none"}),
    "VP9": Kind("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, samples=0),
}
"""x264 and x265 as they are by default. Without B-frames, and in VP9, nearly every picture is one that others need."""


def make(path: Path, kind: Kind, *, seconds: int, size: tuple[int, int], rate: int = 30) -> None:
    """A film with a texture that moves."""
    width, height = size
    random = np.random.default_rng(0)
    scene = np.kron(random.integers(0, 255, (45, 80, 3), np.uint8), np.ones((height // 45, width // 80, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(kind.codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = kind.group_s * rate
        stream.codec_context.options = dict(kind.options)
        for index in range(seconds * rate):
            frame = av.VideoFrame.from_ndarray(np.roll(scene, 3 * index, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def everything(path: Path, *, converts: bool = True) -> list[float]:
    """Decode all, convert all or samples, keep the samples; gives their times."""
    kept: list[float] = []
    shown, index = None, 0

    def keep(frame: av.VideoFrame) -> None:
        assert frame.time is not None
        if not converts:
            frame.reformat(width=_SIDE, height=_SIDE, format="rgb24", interpolation="AREA").to_ndarray()
        kept.append(frame.time)

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for frame in container.decode(stream):
            if converts:
                frame.to_ndarray(format="rgb24")
            assert frame.time is not None
            wanted = False
            while index / _PER_SECOND < frame.time - 1e-6:
                wanted, index = True, index + 1
            if wanted and shown is not None:
                keep(shown)
            shown = frame
    if shown is not None and shown.time is not None and index / _PER_SECOND < shown.time + 1 / 30 - 1e-6:
        keep(shown)
    return kept


def sampled(path: Path, start: float = 0.0, end: float = float("inf"), keys_alone: bool = False) -> list[float]:
    """The service's own way, in one process."""
    fd = os.open(path, os.O_RDONLY)
    try:
        film = Film(OwnPosition(fd), str(path), max_pixels=1 << 26, max_seconds=1e6)
        scan = Scan(start=start, end=end, per_second=_PER_SECOND, keys_alone=keys_alone)
        return [when for when, _ in film.samples(scan, _SIDE)]
    finally:
        os.close(fd)


def together(path: Path, pool: ProcessPoolExecutor, num_processes: int) -> list[float]:
    """The same by several processes, a part each."""
    with av.open(str(path)) as container:
        total_s = (container.duration or 0) / av.time_base
    edges = [*(index * total_s / num_processes for index in range(num_processes)), float("inf")]
    parts = [pool.submit(sampled, path, start, end) for start, end in pairwise(edges)]
    return [when for part in parts for when in part.result()]


class Run(NamedTuple):
    """One way, once."""

    seconds: float
    processor_seconds: float
    """Of this process."""
    times: list[float]


def _timed(work: Callable[[], list[float]]) -> Run:
    start, own = time.perf_counter(), time.process_time()
    found = work()
    return Run(time.perf_counter() - start, time.process_time() - own, found)


def measure(path: Path, pool: ProcessPoolExecutor, num_processes: int) -> tuple[dict[str, dict[str, float]], bool]:
    """Seconds and frames of each way, at its best, and whether all ways found the same frames."""
    ways: dict[str, Callable[[], list[float]]] = {
        EVERYTHING: lambda: everything(path),
        "decode everything": lambda: everything(path, converts=False),
        ONE: lambda: sampled(path),
        f"samples, {num_processes} processes": lambda: together(path, pool, num_processes),
        KEYS: lambda: sampled(path, keys_alone=True),
    }
    rounds = [{name: _timed(work) for name, work in rotated([*ways.items()], number)} for number in range(_ROUNDS)]
    best = {name: min((each[name] for each in rounds), key=lambda run: run.seconds) for name in ways}
    least = {name: min(each[name].processor_seconds for each in rounds) for name in ways}
    times = [run.times for name, run in best.items() if name != KEYS]
    figures = {
        name: {"seconds": run.seconds, "processor_seconds": least[name], "frames": len(run.times)}
        for name, run in best.items()
    }
    return figures, all(found == times[0] for found in times)


def faster(found: dict[str, dict[str, float]], way: str) -> float:
    """How many times as fast as `EVERYTHING`: in processor time if it is one process, in time if it is several."""
    by = "seconds" if way.endswith(" processes") else "processor_seconds"
    return found[EVERYTHING][by] / found[way][by]


def main() -> int:
    """Write the table; gives 1 when it is too slow, or other frames were sampled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--film", type=Path, nargs="+", help="instead of those that are made; no goal then")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--seconds", type=int, default=20, help="of the films that are made")
    parser.add_argument("--toy", action="store_true", help="four seconds, small, and no goal, to try the program")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    given = parser.parse_args()
    results = Results(name="sampling", title="Sampling of films")
    num_processes = len(os.sched_getaffinity(0))
    rows, good = [], True
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(num_processes) as pool:
        films = {path.name: path for path in given.film or ()}
        for number, name in enumerate(() if films else given.kinds):
            path = Path(folder) / f"{number}.mp4"
            size = (160, 90) if given.toy else (1280, 720)
            make(path, KINDS[name], seconds=4 if given.toy else given.seconds, size=size)
            films[name] = path
        together(next(iter(films.values())), pool, num_processes)  # starts them
        for name, path in films.items():
            found, same = measure(path, pool, num_processes)
            results.figures[name] = found
            ratios = {way: faster(found, way) for way in found if way != EVERYTHING}
            rows.append((name, found[EVERYTHING]["processor_seconds"], *(f"{ratio:.2f}" for ratio in ratios.values())))
            if not given.toy and name in KINDS:
                good = good and ratios[ONE] >= KINDS[name].samples and ratios[KEYS] >= KINDS[name].keys
            good = good and same
            if not same:
                results.say(f"{name}: OTHER FRAMES")
    results.say(
        f"The least of {_ROUNDS} rounds. All ways but key frames alone find the same frames. Behind the first column: "
        "how many times as fast it is, in a processor's seconds for one process, and in time for several."
    )
    results.say(table(["film", f"{EVERYTHING}, s", *ratios], rows))
    results.write(given.out)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
