"""How fast a film is sampled: `python -m bench.sampling [--film FILM]`; without one, a film is made.

Every frame decoded and converted, as simple programs do; our samples, the same frames, by one process and by one for
each processor; and key frames alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Final

import av
import numpy as np

from bench.harness import Results, table
from framehaul_pipeline.highlight.messages import Scan
from framehaul_pipeline.highlight.sample import Film, OwnPosition

_ROUNDS: Final = 3
_SIDE: Final = 224
_PER_SECOND: Final = 2.0
_LEAST_SAMPLED: Final = 2.2
_LEAST_KEYS: Final = 10.0


def make(path: Path, *, seconds: int = 20, rate: int = 30) -> None:
    """A film of 1280x720 with noise that moves, and a key frame every 5 s."""
    random = np.random.default_rng(0)
    scene = np.kron(random.integers(0, 255, (45, 80, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 720, 1280, "yuv420p", 5 * rate
        for index in range(seconds * rate):
            frame = av.VideoFrame.from_ndarray(np.roll(scene, 3 * index, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def everything(path: Path) -> list[float]:
    """Decode and convert all, keep the samples; gives their times."""
    kept, shown, index = [], None, 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for frame in container.decode(stream):
            pixels = frame.to_ndarray(format="rgb24")
            assert frame.time is not None
            wanted = False
            while index / _PER_SECOND < frame.time - 1e-6:
                wanted, index = True, index + 1
            if wanted and shown is not None:
                kept.append(shown[0])
            shown = frame.time, pixels
    if shown is not None and index / _PER_SECOND < shown[0] + 1 / 30 - 1e-6:
        kept.append(shown[0])
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


def _timed(work: Callable[[], list[float]]) -> tuple[float, list[float]]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def main() -> int:
    """Write the table; gives 1 when it is too slow, or other frames were sampled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--film", type=Path)
    parser.add_argument("--seconds", type=int, default=20, help="of the film that is made")
    parser.add_argument("--toy", action="store_true", help="four seconds, and no goal, to try the program")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    given = parser.parse_args()
    results = Results(name="sampling", title="Sampling of films")
    with tempfile.TemporaryDirectory() as folder:
        path = given.film or Path(folder) / "film.mp4"
        if given.film is None:
            make(path, seconds=4 if given.toy else given.seconds)
        num_processes = len(os.sched_getaffinity(0))
        with ProcessPoolExecutor(num_processes) as pool:
            together(path, pool, num_processes)  # starts them
            ways: dict[str, Callable[[], list[float]]] = {
                "decode and convert everything": lambda: everything(path),
                "samples, one process": lambda: sampled(path),
                f"samples, {num_processes} processes": lambda: together(path, pool, num_processes),
                "key frames alone, one process": lambda: sampled(path, keys_alone=True),
            }
            rounds = [{name: _timed(work) for name, work in ways.items()} for _ in range(_ROUNDS)]
    best = {name: min((each[name] for each in rounds), key=lambda run: run[0]) for name in ways}
    (all_s, all_times), (_, ours), (ours_s, shared), (keys_s, _) = best.values()
    same = all_times == ours == shared
    results.figures = {name: {"seconds": seconds, "frames": len(times)} for name, (seconds, times) in best.items()}
    results.say(
        f"The best of {_ROUNDS} rounds, {'the same frames' if same else 'OTHER FRAMES'} but for key frames alone."
    )
    rows = [(name, seconds, len(times), all_s / seconds) for name, (seconds, times) in best.items()]
    results.say(table(["way", "s", "frames", "times as fast"], rows))
    results.write(given.out)
    fast = given.toy or (all_s / ours_s >= _LEAST_SAMPLED and all_s / keys_s >= _LEAST_KEYS)
    return 0 if same and fast else 1


if __name__ == "__main__":
    sys.exit(main())
