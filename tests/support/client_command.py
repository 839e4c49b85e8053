"""Runs the `client` command as a user does: a process of its own."""

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.support.fake_server import make_latents
from tests.support.server_process import environment

COMMAND = (sys.executable, "-m", "framehaul_client")


@dataclass(frozen=True)
class Outcome:
    """How the command ended."""

    code: int
    out: bytes
    err: str


async def start_client(*arguments: object, **settings: Any) -> asyncio.subprocess.Process:
    """Start it, with pipes for what it says unless told otherwise."""
    pipe = subprocess.PIPE
    settings = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, "env": environment(), **settings}
    return await asyncio.create_subprocess_exec(*COMMAND, *map(str, arguments), **settings)


async def run_client(*arguments: object, **changes: str) -> Outcome:
    """Run it to its end, with these changes to its environment."""
    process = await start_client(*arguments, env=environment(**changes))
    out, err = await process.communicate()
    assert process.returncode is not None
    return Outcome(process.returncode, out, err.decode())


def make_file(path: Path, num_latents: int = 6, **notes: str) -> np.ndarray[Any, Any]:
    """Write a latents file that the fake server takes, and return the latents."""
    latents = make_latents(num_latents)
    save_file({"latents": latents}, path, metadata={f"framehaul.{name}": value for name, value in notes.items()})
    return latents
