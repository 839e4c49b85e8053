"""Small clips that take many messages, and what the machine did, printed after the run."""

from typing import Any

import pytest

from tests.support.clips import Clip, Frames, decode, make_clip


def small_clip(num_latents: int, seed: int = 1) -> Clip:
    """For frames of 16x16 pixels."""
    return make_clip(num_latents, height=2, width=2, seed=seed)


async def decode_in_steps(target: str, clip: Any) -> Frames:
    """With a window so small that it takes many messages."""
    return await decode(target, clip, window_frames=8)


TALLY: dict[str, int] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLY:
        terminalreporter.section("sequences against a real server")
        terminalreporter.write_line(", ".join(f"{what} {count}" for what, count in TALLY.items()))
