"""Runs the `client` command as a user does: a process of its own."""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.support.fake_server import CHANNELS

COMMAND = (sys.executable, "-m", "framehaul_client")


@dataclass(frozen=True)
class Outcome:
    """How the command ended."""

    code: int
    out: bytes
    err: str


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, without what would change the command's defaults."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FRAMEHAUL_")}
    return kept | changes


async def run_client(*arguments: object, **changes: str) -> Outcome:
    """Run it to its end."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *(str(argument) for argument in arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(**changes),
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Outcome(process.returncode, out, err.decode())


def make_file(path: Path, num_latents: int = 6, **notes: str) -> np.ndarray[Any, Any]:
    """Write a latents file that the fake server takes, and return the latents."""
    latents = np.random.default_rng(5).standard_normal((num_latents, CHANNELS, 2, 4)).astype(np.float16)
    save_file({"latents": latents}, path, metadata={f"framehaul.{name}": value for name, value in notes.items()})
    return latents
