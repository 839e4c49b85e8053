"""Programs of `make bench` and of the `bench-*` that write to the page, as small as they go, on the CPU.

What they find says nothing: that they start, reach their end and fill in the page is what is held. Of those that take
long, all parts are tried with BENCH_WHOLE=1 (`make nightly`).
"""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench import ROOT
from bench.cpu import PROGRAMS
from bench.gpu import PARTS
from bench.gpu_wan import SERVED
from bench.processes import python_environment
from bench.transport import TITLES

pytestmark = pytest.mark.timeout(600)
WHOLE = os.environ.get("BENCH_WHOLE") == "1"


def run(folder: Path, program: str, *options: str, report: bool = True) -> tuple[str, dict[str, Any]]:
    """Run a program, and `bench.report` if the page has marks for it; gives what was printed, and figures by name."""
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs/benchmarks.md", folder / "docs")
    filling = ("bench.report", "--results", str(folder / "out"), "--docs", str(folder / "docs"))
    said = ""
    for command in ((program, *options), filling) if report else ((program, *options),):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=python_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        said += done.stdout
        assert done.returncode == 0, done.stdout + done.stderr
    figures = {path.stem: json.loads(path.read_text())["figures"] for path in (folder / "out").glob("*.json")}
    for name, found in figures.items():
        assert not [key for key in found if key.endswith("error")], found
        assert not report or f"benchmarks.md: {name}\n" in said
    return said, figures


def test_cpu(tmp_path: Path) -> None:
    said, figures = run(tmp_path, "bench.cpu", "--toy", "--rounds", "1", "--out", str(tmp_path / "out"))
    assert set(figures) == set(PROGRAMS)
    assert set(figures["transport"]["4 MB"]) == set(TITLES), said
    assert set(figures["sessions"]["sessions"]) == {"1", "4", "16", "64"}


def test_decoders(tmp_path: Path) -> None:
    """On the CPU ours is the library's module; what is compiled takes long."""
    options = (
        "--toy",
        "--device",
        "cpu",
        "--size",
        "16x16",
        "--decoders",
        "autoencoder-kl",
        "--ways",
        "ours",
        "shipped",
    )
    _, figures = run(tmp_path, "bench.gpu_decoders", *options, "--out", str(tmp_path / "out"), report=False)
    ways = figures["decoders"]["autoencoder-kl"]["ways"]
    assert set(ways) == {"ours", "shipped"}
    assert ways["ours"]["relative_error"] == 0


def test_gpu(tmp_path: Path) -> None:
    """The worker answers the program: what it notes of copies is of the frames that the client gets."""
    parts = PARTS if WHOLE else ("streams",)
    options = ("--toy", "--device", "cpu", "--seconds", "0.3", "--parts", *parts)
    _, figures = run(tmp_path, "bench.gpu", str(tmp_path / "out"), *options, report=WHOLE)
    found = figures["gpu"]
    assert not WHOLE or {"contest tiny", "contest bench-stand-in", "cost"} <= set(found)
    assert math.isfinite(found["stream"]["64x64, 24 frames/s"]["to_client_p50_ms"])


def test_wan(tmp_path: Path) -> None:
    """The rivals that need no package and no compiler; the streams are those of `bench.gpu`."""
    parts = ("decode", *SERVED, "reproducible") if WHOLE else ("long",)
    sizes = ("--toy", "--device", "cpu", "--sizes", "32x32", "--rounds", "1", "--long-seconds", "0.5")
    chosen = ("--parts", *parts, "--contenders", "diffusers", "ours-1")
    _, figures = run(tmp_path, "bench.gpu_wan", "--out", str(tmp_path / "out"), *sizes, *chosen)
    assert set(figures) == {f"wan-{part}" for part in parts}
    assert set(figures["wan-long"]["samples"][0]) > {"device, allocated", "host, worker"}
    if not WHOLE:
        return
    assert set(figures["wan-decode"]["sizes"][0]) == {"diffusers", "ours-1"}, figures["wan-decode"]["failed"]
    assert set(figures["wan-reproducible"]["reproducible"]) == {
        f"{model}, {reproducible}" for model in ("wan2.1", "tiny") for reproducible in (False, True)
    }


def test_watched(tmp_path: Path) -> None:
    """Being scraped, looked at and traced, all three at a real server."""
    options = ("--toy", "--seconds", "1", "--rounds", "1", "--out", str(tmp_path / "out"))
    _, figures = run(tmp_path, "bench.watched", *options)
    assert set(figures["watched"]["watched"]) == {"alone", "watched", "traced"}


def test_highlight_arms(tmp_path: Path) -> None:
    """A simple arm, and the product's own code: they choose the same excerpts."""
    film = ("--requests", "1", "--films", "1", "--film-seconds", "6", "--heights", "144")
    options = ("--device", "cpu", *film, "--rounds", "1", "--loaders", "1", "--arms", "B2", "B5")
    _, figures = run(tmp_path, "bench.highlight_arms", *options, "--out", str(tmp_path / "out"))
    assert set(figures["highlight-arms"]) == {"B2", "B5", "loaders"}
    assert math.isfinite(figures["highlight-arms"]["B5"]["p95_s"])


def test_sampling(tmp_path: Path) -> None:
    kinds = ("H.264", "H.264 without B-frames")
    _, figures = run(tmp_path, "bench.sampling", "--toy", "--kinds", *kinds, "--out", str(tmp_path / "out"))
    assert {each["frames"] for film in figures["sampling"].values() for each in film.values()} == {8, 1}
    assert set(figures["sampling"]) == set(kinds)


def test_taehv(tmp_path: Path) -> None:
    options = ("--device", "cpu", "--files", "taew2_1", "--size", "32x32", "--seconds", "0")
    _, figures = run(tmp_path, "bench.taehv", *options, "--out", str(tmp_path / "out"))
    assert figures["taehv"]["taew2_1"]["relative"] < 1e-4
    assert min(figures["taehv"]["taew2_1"]["frames_per_s"].values()) > 0


def test_saliency(tmp_path: Path) -> None:
    options = ("--device", "cpu", "--size", "32x32", "--batches", "1", "--seconds", "0")
    _, figures = run(tmp_path, "bench.saliency", *options, "--out", str(tmp_path / "out"), report=False)
    assert set(figures["saliency"]) == {"published, 1", "folded, 1", "differences"}
    assert figures["saliency"]["differences"]["between"] < 1e-3
