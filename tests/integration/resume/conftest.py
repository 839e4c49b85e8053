"""Real servers with real workers, and clips that are decoded once without a fault to compare with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from framehaul_client import FrameClient
from tests.support.server_process import SAME_CHUNKS, ServerProcess, running_server

NUM_LATENTS = 6
FRAMES_OF_A_LATENT = 4
OPTIONS = ("--resume-window", "5", "--grace", "2", *SAME_CHUNKS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests of a module; none of them may harm it."""
    with running_server(tmp_path_factory.mktemp("server") / "log", *OPTIONS) as running:
        yield running


def make_clip(num_latents: int = NUM_LATENTS, seed: int = 1, size: int = 2) -> np.ndarray[Any, Any]:
    """Latents of a small clip for `tiny`: frames of 16x16 pixels, or as `size` says."""
    noise = np.random.default_rng(seed).standard_normal((num_latents, 16, size, size), dtype=np.float32)
    return noise.astype(np.float16)


async def decode(target: str, latents: Any, **options: Any) -> np.ndarray[Any, Any]:
    """All frames of a clip; `window_frames` small, so that it takes many messages."""
    async with FrameClient(target) as client, client.session(latents, **{"window_frames": 8, **options}) as session:
        return np.stack([frame async for frame in session])


def save_clip(path: Path, num_latents: int) -> None:
    """Write a latents file whose decoding takes a while."""
    save_file({"latents": make_clip(num_latents, size=8)}, path)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


TALLY: dict[str, int] = {}
"""What the machine did, printed after the run."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLY:
        terminalreporter.section("sequences against a real server")
        terminalreporter.write_line(", ".join(f"{what} {count}" for what, count in TALLY.items()))
