"""Processes of a benchmark: the real server, peers that speak JSON lines, and what all of them cost.

Everything started here is stopped by its own process id when its context ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil

from bench import ROOT, SOURCES

_STOP_TIMEOUT_S: Final = 20.0
KIB: Final = 1 << 10
MIB: Final = 1 << 20


def python_environment(**extra: str) -> dict[str, str]:
    """This environment, with the project importable from its sources, installed or not."""
    path = os.pathsep.join([*SOURCES, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE", **extra}


def make_weights(folder: Path, model: str, *, toy: bool) -> None:
    """Random weights of a Wan model; see `bench.wan_weights`, whose torch this process stays without.

    Raises:
        subprocess.CalledProcessError: torch or diffusers are missing.
    """
    options = ("--model", model, *(["--toy"] if toy else []))
    command = [sys.executable, "-m", "bench.wan_weights", str(folder), *options]
    subprocess.run(command, check=True, cwd=ROOT, env=python_environment())


class Peer:
    """A Python module run as a process; it answers each line of JSON with one."""

    def __init__(self, module: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        """Start `python -m module arguments`."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=ROOT,
            env=env or python_environment(),
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        """Return the peer."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the process."""
        self.close()

    def send(self, request: dict[str, Any]) -> None:
        """Send a request, without waiting for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")

    def receive(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Wait for the next answer; there is one for each request, so that none lies read ahead.

        Raises:
            RuntimeError: the process ended instead.
            TimeoutError: nothing came within `timeout_s`.
        """
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise TimeoutError(f"process {self._process.args!r} gave no answer within {timeout_s:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"process {self._process.args!r} ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        self.send(request)
        return self.receive()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def close(self) -> None:
        """End it: end-of-file on its input first, a signal if that isn't enough."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it is gone already
                self._process.stdin.close()
        end_process(self._process, hint=False)


class Server:
    """The real frame server and its worker, on a free port of 127.0.0.1."""

    def __init__(self, *options: str, module: str = "framehaul_server", env: dict[str, str] | None = None) -> None:
        """Start `python -m module --listen 127.0.0.1:0 options` and wait until it serves.

        Raises:
            RuntimeError: it doesn't.
        """
        # A standby would take the processor just when measuring begins.
        fixed = ("--listen", "127.0.0.1:0", "--log-level", "warning", "--no-standby")
        command = [sys.executable, "-m", module, *fixed, *options]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env or python_environment()
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found = re.search(r" on (\S+:\d+), (?:device )?(.*?)(?:, \d+ MB shared .*)?$", line)
        if found is None:
            end_process(self._process)
            raise RuntimeError(f"the server didn't start: {line!r}")
        self.target, self.device = found[1], found[2]
        self.pid = self._process.pid
        children = psutil.Process(self.pid).children(recursive=True)
        self.worker_pid = children[0].pid if children else self.pid

    def __enter__(self) -> Self:
        """Return the server."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the server; its worker goes with it."""
        end_process(self._process)


def end_process(process: subprocess.Popen[str], *, hint: bool = True) -> None:
    """Terminate, then kill what doesn't end; `hint` False: it was asked in another way already."""
    try:
        if hint and process.poll() is None:
            process.terminate()
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that is its own: anonymous pages in RAM, so neither rings nor program files."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def thread_seconds(pid: int) -> dict[int, float]:
    """User and system time of each of a process's threads so far."""
    return {thread.id: thread.user_time + thread.system_time for thread in psutil.Process(pid).threads()}


def hottest(before: dict[int, float], after: dict[int, float], elapsed_s: float) -> float:
    """Share of one core that the busiest thread used in `elapsed_s`."""
    return max((spent - before.get(thread, 0.0) for thread, spent in after.items()), default=0.0) / elapsed_s
