"""The same clips through three ways to serve them: one process serially, one process overlapped, Framehaul."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any, Final

from bench.control import VARIABLE, Control
from bench.plugin import FREE_SPEC, PLUGIN
from bench.processes import Peer, Server, python_environment

MODES: Final = {"serial": "one process, serial", "overlapped": "one process, overlapped", "framehaul": "Framehaul"}


class Contest:
    """The baseline's process, the server, and a client process for each session at most."""

    def __init__(
        self,
        device: str,
        size: tuple[int, int],
        stack: contextlib.ExitStack,
        *,
        baseline: str,
        model: str,
        server: Sequence[str],
        chunk: int = 4,
        num_clients: int = 8,
    ) -> None:
        """Start all processes.

        Args:
            device: of both.
            size: height and width of frames.
            stack: what ends the processes.
            baseline: the decoder in the baseline's process, see `gpu_baseline`.
            model: the name that sessions ask the server for.
            server: its options.
            chunk: latents that the baseline decodes together.
            num_clients: most sessions at once.
        """
        self._size, self._decoder, self._model, self._chunk = size, baseline, model, chunk
        self._baseline = stack.enter_context(Peer("bench.gpu_baseline", device))
        self.control = stack.enter_context(Control())
        env = python_environment(**{VARIABLE: self.control.path})
        options = ("--device", device, *PLUGIN, *server, "--model", FREE_SPEC.name)
        self.server = stack.enter_context(Server(*options, env=env))
        self.clients = [stack.enter_context(Peer("bench.stream_client")) for _ in range(num_clients)]
        for client in self.clients:
            client.receive()

    def request(self, latents: int, sink: str) -> dict[str, Any]:
        """What a client is sent."""
        height, width = self._size
        clip = {"height": height, "width": width, "latents": latents, "sink": sink}
        return clip | {"target": self.server.target, "model": self._model}

    def run(self, mode: str, sessions: int, latents: int, sink: str, *, profile: bool = True) -> dict[str, Any]:
        """Run `sessions` clips of `latents` at once; without `profile` nothing is recorded on the device."""
        if mode == "framehaul":
            return self._framehaul(self.request(latents, sink), sessions, profile=profile)
        own = {"mode": mode, "decoder": self._decoder, "sessions": sessions, "chunk": self._chunk, "profile": profile}
        return self._baseline.ask(self.request(latents, sink) | own)

    def _framehaul(self, request: dict[str, Any], sessions: int, *, profile: bool) -> dict[str, Any]:
        clients, recorded = self.clients[:sessions], self.control.ask("start") if profile else {}
        begun_ns = time.monotonic_ns()
        for client in clients:
            client.send(request)
        runs = [client.receive()["sessions"][0] for client in clients]
        ended_ns = max(run["ended_ns"] for run in runs)
        if profile and "error" not in recorded:
            recorded = self.control.ask("stop")
        return {
            "wall_s": (ended_ns - begun_ns) / 1e9,
            "sessions_s": [(run["ended_ns"] - begun_ns) / 1e9 for run in runs],
            "first_frames_s": [(run["messages"][0][0] - begun_ns) / 1e9 for run in runs],
            "num_frames": sum(run["num_frames"] for run in runs),
            "profile": recorded,
        }
