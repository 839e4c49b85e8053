"""From frames to a closed mp4: one encoder beside segments on several, through the client's own sink.

`python -m bench.encoders [--video FILE] [--frames 384] [--rounds 3] [--out DIR]`. Frames are the sample clip's, decoded
by a server on the CPU (or those of `--video`), laid side by side up to each size and repeated. They come all at once,
or at a pace, as from a decoder; the tail is the time from the last one to the closed file.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray

from bench.harness import Results, run_rounds, table
from bench.processes import Server
from framehaul.formats import PixelFormat
from framehaul_client.client import FrameClient
from framehaul_client.command.stream import SAMPLE
from framehaul_client.core.frames import FrameBatch, FrameLayout
from framehaul_client.sinks.choice import choose_sink
from framehaul_client.sinks.video_options import VideoOptions
from framehaul_client.source.latents_file import LatentsFile

_BATCH: Final = 4
_FPS: Final = Fraction(24)
_WAYS: Final[dict[str, dict[str, str]]] = {
    "one, threads by slice": {"threads": "0", "thread_type": "slice"},
    "one": {"threads": "0"},
    "segments": {},
}


@dataclass(frozen=True, slots=True)
class Case:
    """What is encoded, how, and how fast frames come."""

    codec: str
    preset: str
    height: int
    width: int
    pace: int
    """Frames a second; 0: all at once."""
    way: str


def pictures(video: Path | None) -> list[NDArray[np.uint8]]:
    """Frames `[H * 3 / 2, W]` of a file, or of the sample clip."""
    if video is not None:
        with av.open(str(video)) as container:
            return [np.asarray(frame.to_ndarray(format="yuv420p"), np.uint8) for frame in container.decode(video=0)]

    async def decode(target: str) -> list[NDArray[np.uint8]]:
        with LatentsFile(SAMPLE) as latents:
            async with FrameClient(target) as client, client.session(latents, pixel_format="yuv420p") as session:
                return [frame.copy() async for frame in session]

    with Server("--device", "cpu") as server:
        return asyncio.run(decode(server.target))


def laid_out(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The frame beside and above itself, cut to this size."""
    rows, columns = frame.shape[0] * 2 // 3, frame.shape[1]
    chroma = frame[rows:].reshape(2, rows // 2, columns // 2)

    def tile(plane: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        repeats = (-(-height // plane.shape[0]), -(-width // plane.shape[1]))
        return np.tile(plane, repeats)[:height, :width].ravel()

    planes = [tile(frame[:rows], height, width), *(tile(plane, height // 2, width // 2) for plane in chroma)]
    return np.concatenate(planes).reshape(height * 3 // 2, width)


def measure(case: Case, frames: Sequence[NDArray[np.uint8]], num_frames: int, folder: Path) -> dict[str, float]:
    """Encode a clip once."""
    out = folder / "clip.mp4"
    options = VideoOptions(codec=case.codec, preset=case.preset, more=_WAYS[case.way])
    sink = choose_sink(str(out), PixelFormat.YUV420P, lambda: _FPS, options)
    sink.prepare()
    started_s = time.perf_counter()
    sink.start(FrameLayout(pixel_format=PixelFormat.YUV420P, height=case.height, width=case.width), num_frames)
    for first in range(0, num_frames, _BATCH):
        batch = np.stack([frames[index % len(frames)] for index in range(first, min(first + _BATCH, num_frames))])
        if case.pace:
            time.sleep(max(0.0, started_s + (first + len(batch)) / case.pace - time.perf_counter()))
        sink.write(FrameBatch(first, batch))
    last_s = time.perf_counter()
    sink.finish()
    ended_s = time.perf_counter()
    with av.open(str(out)) as container:
        assert container.streams.video[0].frames == num_frames, "a file without all frames"
    return {
        "frames_per_s": num_frames / (ended_s - started_s),
        "tail_s": ended_s - last_s,
        "bytes": float(out.stat().st_size),
    }


def compare(
    results: Results, cases: Sequence[Case], clip: Sequence[NDArray[np.uint8]], num_frames: int, rounds: int
) -> None:
    """Measure and tell."""
    rows: list[list[Any]] = []
    sizes = {(case.height, case.width) for case in cases}
    frames = {size: [laid_out(frame, *size) for frame in clip] for size in sizes}
    with tempfile.TemporaryDirectory() as folder:
        found = run_rounds(
            cases,
            rounds,
            lambda case: measure(case, frames[case.height, case.width], num_frames, Path(folder)),
        )
    for case, figures in found.items():
        one = found[Case(case.codec, case.preset, case.height, case.width, case.pace, "one")]
        rows.append(
            [
                f"{case.width}x{case.height} {case.codec} {case.preset}",
                f"{case.pace}/s" if case.pace else "at once",
                case.way,
                figures["frames_per_s"],
                f"{figures['frames_per_s'] / one['frames_per_s']:.2f}x",
                f"{1000 * figures['tail_s']:.0f}",
                f"{figures['bytes'] / one['bytes']:.3f}",
                figures["spread"],
            ]
        )
    heads = ("clip", "frames come", "encoders", "frames/s", "to one", "tail, ms", "bytes to one", "spread")
    results.say(table(heads, rows))
    results.figures["rows"] = [dict(zip(heads, row, strict=True)) for row in rows]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video", type=Path, help="a video to encode again, instead of the sample clip")
    parser.add_argument("--frames", type=int, default=384, metavar="N", help="of each clip (default: 384)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of each case (default: 3)")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), metavar="DIR", help="default: out/bench")
    options = parser.parse_args()
    results = Results(name="encoders", title="One encoder and segments")
    kinds = [
        ("libx264", "veryfast", 480, 832, 0),
        ("libx264", "veryfast", 480, 832, 180),
        ("libx264", "superfast", 480, 832, 0),
        ("libx265", "fast", 480, 832, 0),
        ("libx264", "veryfast", 720, 1280, 0),
        ("libx264", "veryfast", 720, 1280, 90),
    ]
    cases = [Case(*kind, way) for kind in kinds for way in _WAYS]
    compare(results, cases, pictures(options.video), options.frames, options.rounds)
    results.write(options.out)


if __name__ == "__main__":
    main()
