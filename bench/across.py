"""One long clip over several devices of a host, by `client stream --across`: how much sooner, and the same frames?

`python -m bench.across --devices cuda:0,cuda:1 [--frames 321,1281]`. The decoder is Wan 2.1 with random weights
(`--toy`: a narrow one, for a try on a CPU). One front has all devices; the client runs on the same machine. Seconds are
the client's own, from connecting to the closed file. Frames are compared as FFV1, with `--reproducible`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from safetensors.numpy import save_file

from bench import ROOT
from bench.harness import Results, run_rounds, table
from bench.processes import Server, make_weights, python_environment
from framehaul.formats import parse_size

_SEED: Final = 20261129
_CHANNELS: Final = 16
_LATENT_PIXELS: Final = 8
_TEMPORAL_FACTOR: Final = 4
_LOOKS_BACK: Final = 38
"""Latents that a frame of Wan 2.1 needs before its own."""


def write_latents(path: Path, num_frames: int, size: tuple[int, int]) -> int:
    """Random latents that give so many frames; gives how many those are."""
    num_latents = (num_frames - 1) // _TEMPORAL_FACTOR + 1
    height, width = (length // _LATENT_PIXELS for length in size)
    values = np.random.default_rng(_SEED).standard_normal((num_latents, _CHANNELS, height, width), dtype=np.float32)
    save_file({"latents": values.astype(np.float16)}, path)
    return num_latents


def stream(target: str, latents: Path, out: Path, across: int, *options: str) -> dict[str, Any]:
    """Run the client; gives its report.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    parts = ("--across", str(across)) if across > 1 else ()
    command = ("stream", str(latents), "--target", target, "--out", str(out), *parts, "--json", "--quiet", *options)
    done = subprocess.run(
        [sys.executable, "-m", "framehaul_client", *command],
        check=True,
        cwd=ROOT,
        env=python_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def digest(path: Path) -> str:
    """Hash of every pixel of a video without loss."""
    found = hashlib.sha256()
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            found.update(frame.to_ndarray().tobytes())
    return found.hexdigest()


def most(num_latents: int, parts: int) -> float:
    """The speed-up that there would be if nothing but decoding took time."""
    return parts * num_latents / (num_latents + (parts - 1) * _LOOKS_BACK)


def main() -> int:
    """Measure each length with one session, and with one for each device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", default="cuda:0,cuda:1")
    parser.add_argument("--frames", default="321,1281")
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    given = parser.parse_args()
    parts = given.devices.count(",") + 1
    width, height = parse_size(given.size)
    results = Results(name="across", title="One clip over several devices", device=given.devices)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_weights(folder / "wan", "wan2.1", toy=given.toy)
        model = f"wan={folder / 'wan'}"
        with Server("--devices", given.devices, "--model", model, "--warm-up", given.size) as server:
            for num_frames in map(int, given.frames.split(",")):
                latents = folder / f"{num_frames}.safetensors"
                num_latents = write_latents(latents, num_frames, (height, width))

                def once(across: int, latents: Path = latents, target: str = server.target) -> dict[str, float]:
                    report = stream(target, latents, folder / "video.mp4", across)
                    return {"total_s": report["total_s"], "stream_s": report["stream_s"]}

                def frames(across: int, latents: Path = latents, target: str = server.target) -> str:
                    stream(target, latents, folder / "video.mkv", across, "--codec", "ffv1", "--reproducible")
                    return digest(folder / "video.mkv")

                equal = frames(1) == frames(parts)
                found = run_rounds((1, parts), given.rounds, once)
                results.figures[str(num_frames)] = {"equal": equal, **{str(key): each for key, each in found.items()}}
                one, several = found[1], found[parts]
                rows.append(
                    [
                        num_frames,
                        one["total_s"],
                        several["total_s"],
                        one["total_s"] / several["total_s"],
                        one["stream_s"] / several["stream_s"],
                        most(num_latents, parts),
                        "equal" if equal else "DIFFER",
                    ]
                )
    results.say(f"Wan 2.1, random weights, {given.size}, to the closed mp4; medians of {given.rounds} rounds.")
    heads = ["frames", "one session, s", f"{parts} parts, s", "sooner", "sooner, last frame", "at most", "frames"]
    results.say(table(heads, rows))
    results.write(given.out)
    return 0 if all(row[-1] == "equal" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
