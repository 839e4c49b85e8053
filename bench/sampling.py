"""How fast a film is sampled: `python -m bench.sampling [FILM]`; without one, a film is made.

Three ways: every frame decoded and converted, as simple programs do; our samples, the same frames; and key frames alone.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import av
import numpy as np

from framehaul_pipeline.highlight.messages import Scan
from framehaul_pipeline.highlight.sample import Film, OwnPosition

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
    if shown is not None and index / _PER_SECOND <= shown[0] + 1e-6:
        kept.append(shown[0])
    return kept


def sampled(path: Path, *, keys_alone: bool = False) -> list[float]:
    """The service's own way, in one process."""
    fd = os.open(path, os.O_RDONLY)
    try:
        film = Film(OwnPosition(fd), str(path), max_pixels=1 << 26, max_seconds=1e6)
        scan = Scan(start=0.0, end=float("inf"), per_second=_PER_SECOND, keys_alone=keys_alone)
        return [when for when, _ in film.samples(scan, _SIDE)]
    finally:
        os.close(fd)


def _timed(work: Callable[[], list[float]]) -> tuple[float, list[float]]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def main() -> int:
    """Print the table; gives 1 when it is too slow, or other frames were sampled."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "film.mp4"
        if len(sys.argv) < 2:
            make(path)
        rounds = [(_timed(lambda: everything(path)), _timed(lambda: sampled(path))) for _ in range(3)]
        keys_s, keys = min((_timed(lambda: sampled(path, keys_alone=True)) for _ in range(3)), key=lambda run: run[0])
    all_s, all_times = min((each[0] for each in rounds), key=lambda run: run[0])
    ours_s, our_times = min((each[1] for each in rounds), key=lambda run: run[0])
    print("way                          processor s  frames  times as fast")
    for name, seconds, times in (
        ("decode and convert everything", all_s, all_times),
        ("samples", ours_s, our_times),
        ("key frames alone", keys_s, keys),
    ):
        print(f"{name:30}{seconds:10.2f}{len(times):8}{all_s / seconds:10.1f}")
    same = np.allclose(all_times, our_times) if len(all_times) == len(our_times) else False
    print("the same frames" if same else "OTHER FRAMES")
    return 0 if same and all_s / ours_s >= _LEAST_SAMPLED and all_s / keys_s >= _LEAST_KEYS else 1


if __name__ == "__main__":
    sys.exit(main())
