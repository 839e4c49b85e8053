"""A server's actor: runs the `server` command as a child, and tells the registry of it. One for each GPU.

Ray keeps the actor; the actor starts its server again, as a host's front does; the system kills the server with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from dataclasses import replace
from typing import Any, Final

import ray
from ray.exceptions import RayError

from framehaul import logs as log_form
from framehaul.v1 import frames_pb2 as pb
from framehaul_fleet.on_ray.plan import REGISTRY, FleetSpec, Report, server_arguments
from framehaul_pipeline.device.host_memory import available_bytes, total_bytes
from framehaul_server import logs
from framehaul_server.front.gpus import find_gpus, near_processors
from framehaul_server.front.host import HostShare
from framehaul_server.front.members import Member

TELL_S: Final = 1.0
_ANSWER_S: Final = 5.0

_log = logging.getLogger(__name__)


class Server:
    """The actor. It ends by itself when its server has drained."""

    def __init__(self, spec: FleetSpec, name: str) -> None:
        """Start the server, in a thread that lives as long as this process: the server ends with that thread."""
        log_form.configure("info")
        self._spec = spec
        context = ray.get_runtime_context()
        self._report = Report(
            name=name, host=ray.util.get_node_ip_address(), node=context.get_node_id(), pid=os.getpid()
        )
        self._registry: Any = None
        threading.Thread(target=self._run, name="server", daemon=True).start()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:
            _log.exception("%s", logs.line("actor_failed"))
        finally:
            logging.shutdown()
            os._exit(0)  # Ray has no way for an actor's own thread to end it; the registry replaces one that failed

    async def _serve(self) -> None:
        gpus = await asyncio.to_thread(find_gpus) if self._spec.gpus else []
        member = Member(
            "cuda" if self._spec.gpus else "cpu",
            server_arguments(self._spec, self._report.host, self._share()),
            processors=near_processors(gpus[0]) if gpus else (),
            startup_s=self._spec.start_s,
            on_report=self._reported,
            on_gone=self._gone,
        )
        running = asyncio.create_task(member.run())
        while not running.done():
            self._report = replace(self._report, exit_code=member.exit_code)
            if await self._tell() and not self._report.draining:
                self._report = replace(self._report, draining=True)
                member.drain()
            await asyncio.wait({running}, timeout=TELL_S)
        await running

    def _share(self) -> HostShare:
        """Of the host's memory: as many servers may be here as Ray has GPUs, or processors, of this node."""
        found = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == self._report.node)
        most = min(self._spec.most, int(found.get("GPU" if self._spec.gpus else "CPU", 1)))
        return HostShare(total_bytes() // max(1, most), available_bytes() // max(1, most))

    def _reported(self, info: pb.ServerInfo) -> None:
        load = info.load
        self._report = replace(
            self._report,
            ready=info.ready,
            target=info.target,
            epoch=info.epoch,
            sessions=load.sessions,
            queued=load.queued,
            places=info.limits.max_sessions,
        )

    def _gone(self, _target: str) -> None:
        self._report = replace(self._report, ready=False, target="", epoch=0, sessions=0, queued=0)

    async def _tell(self) -> bool:
        """Whether the registry wants this server to drain; one that is away for a moment wants nothing."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                if self._registry is None:
                    self._registry = await asyncio.to_thread(ray.get_actor, REGISTRY)
                return bool(await self._registry.report.remote(self._report))
        except (RayError, TimeoutError, ValueError) as error:
            self._registry = None  # another one may have its name
            _log.warning("%s", logs.line("registry_away", reason=type(error).__name__))
            return False
