"""One address for the devices of a host: a front, and a server for each device. Runs on the event loop.

The front names servers; frames go straight from a server to its client. A server that ends is started again, and its
sessions go on at the others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from framehaul.address import Address
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.config import PAGE_BYTES
from framehaul_pipeline.device.host_memory import available_bytes, total_bytes
from framehaul_pipeline.scheduling.memory import default_park_bytes
from framehaul_pipeline.supervision.supervisor import WorkerFailed
from framehaul_server import logs
from framehaul_server.app import read_access
from framehaul_server.config import ServerConfig
from framehaul_server.core.placement import Placement
from framehaul_server.errors import CannotWork
from framehaul_server.front.front import Front
from framehaul_server.front.gpus import find_gpus, near_processors
from framehaul_server.front.members import Member

if TYPE_CHECKING:
    from framehaul_server.observe.http import HttpServer

_WRONG_OPTION: Final = 2
_GIB: Final = 1 << 30
_START_MARGIN_S: Final = 30.0
_STOP_MARGIN_S: Final = 15.0
"""A server ends at most 10 s after its grace period."""

_log = logging.getLogger(__name__)


class Host:
    """Owner of the front and of the servers."""

    def __init__(
        self,
        config: ServerConfig,
        arguments: Sequence[str],
        *,
        on_ready: Callable[[str], None],
        gpus: Sequence[str] | None = None,
    ) -> None:
        """Prepare; `arguments` are those of this command, which the servers get too. Needs a running loop.

        Args:
            config: what the arguments, and the environment, say.
            arguments: see above.
            on_ready: gets the line that says what is served, once it is.
            gpus: PCI addresses by CUDA's numbers; None: those of this host.

        Raises:
            CannotWork: a device isn't there.
            UnusableFile: certificates, keys or tokens can't be read, or hold what they shouldn't.
        """
        self._config = config
        self._on_ready = on_ready
        self._certificates, self._identify = read_access(config)
        self._placement = Placement()
        self._front = Front(config, self._placement, self._identify, self._certificates)
        found = gpus if gpus is not None else [] if set(config.devices) == {"cpu"} else find_gpus()
        devices = choose_devices(config.devices, len(found))
        share = HostShare(total_bytes() // len(devices), available_bytes() // len(devices))
        self._members = [
            Member(
                device,
                member_arguments(config, arguments, device, index, share),
                processors=near_processors(found[_number(device)]) if device != "cpu" else (),
                startup_s=config.worker.startup_timeout_s + _START_MARGIN_S,
                on_report=self._reported,
                on_gone=self._gone,
            )
            for index, device in enumerate(devices)
        ]
        self._http: HttpServer | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, drain all servers, and clean up.

        Raises:
            CannotListen: the address is in use, or not of this machine.
            CannotWork: the servers don't take their options; the log says why.
            WorkerFailed: no server comes up.

        Cancellation: the servers are killed.
        """
        address = self._front.bind()
        if self._config.metrics is not None:
            self._http = await self._observe(self._config.metrics)
        running = [asyncio.create_task(member.run()) for member in self._members]
        stopped = asyncio.create_task(stop.wait())
        try:
            settled = asyncio.create_task(self._settled())
            await asyncio.wait({settled, stopped}, return_when=asyncio.FIRST_COMPLETED)
            settled.cancel()
            if not stop.is_set():
                self._check_any()
                await self._front.start()
                self._on_ready(self._ready_line(address))
                await stopped
            await self._drain(running)
        finally:
            for each in (stopped, *running):
                each.cancel()
            await asyncio.gather(stopped, *running, return_exceptions=True)
            await self._front.aclose()
            if self._http is not None:
                await self._http.aclose()

    async def _settled(self) -> None:
        for member in self._members:
            await member.settled.wait()

    async def _drain(self, running: Sequence[asyncio.Task[None]]) -> None:
        _log.info("%s", logs.line("drain", servers=len(running), grace_s=self._config.grace_s))
        self._front.drain()
        for member in self._members:
            member.drain()
        _, late = await asyncio.wait(running, timeout=self._config.grace_s + _STOP_MARGIN_S)
        if late:
            _log.error("%s", logs.line("drain_timeout", servers=len(late), action="kill"))

    def _check_any(self) -> None:
        if self._placement.ready_models(time.monotonic()):
            return
        codes = {member.exit_code for member in self._members}
        if codes == {_WRONG_OPTION}:
            raise CannotWork("the servers can't work with these options; see the log")
        raise WorkerFailed("no server comes up; see the log")

    def _reported(self, info: pb.ServerInfo) -> None:
        self._placement.report(info.target, info, time.monotonic())

    def _gone(self, target: str) -> None:
        self._placement.remove(target)
        self._front.look()

    def _ready_line(self, address: Address) -> str:
        servers = self._placement.servers(time.monotonic())
        models = dict.fromkeys(model.name for server in servers for model in server.models)
        return (
            f"framehaul: serving {', '.join(models)} on {address}, {len(servers)} of {len(self._members)} servers: "
            + ", ".join(f"{server.device} at {server.target}" for server in servers)
        )

    async def _observe(self, address: Address) -> HttpServer:
        from framehaul_server.observe.targets import serve_targets  # only where it is asked for: it takes its time

        host = Address.parse(self._config.advertise).host if self._config.advertise else address.host
        targets = [str(Address(host=host, port=port)) for port in _metrics_ports(address, len(self._members))]
        return await serve_targets(address, lambda: targets, self._identify, self._certificates)


def choose_devices(devices: Sequence[str], num_gpus: int) -> list[str]:
    """The devices that are meant.

    Raises:
        CannotWork: one isn't there.
    """
    if list(devices) == ["all"]:
        if not num_gpus:
            raise CannotWork("--devices all: this host has no GPU, or none that CUDA shows: must be cuda:N or cpu")
        return [f"cuda:{number}" for number in range(num_gpus)]
    for device in devices:
        if device != "cpu" and _number(device) >= num_gpus:
            there = f"cuda:0..cuda:{num_gpus - 1}" if num_gpus else "cpu, for CUDA shows no GPU"
            raise CannotWork(f"--devices {','.join(devices)}: {device} isn't there: must be {there}")
    return list(devices)


@dataclass(frozen=True, slots=True)
class HostShare:
    """Of the host's memory, for one server."""

    total_bytes: int
    available_bytes: int


def member_arguments(
    config: ServerConfig, arguments: Sequence[str], device: str, index: int, share: HostShare
) -> list[str]:
    """What the server of a device is told: all that the front was told, then what differs, as the last one counts.

    Its port is the system's choice. It is reached under the front's name, so that certificates fit. What a server takes
    by default of the whole host's memory is taken of its share.
    """
    changed = ["--devices=", f"--device={device}", f"--listen={replace_port(config.listen, 0)}"]
    if config.advertise is not None:
        changed.append(f"--advertise={replace_port(Address.parse(config.advertise), 0)}")
    if config.metrics is not None:
        port = _metrics_ports(config.metrics, index + 1)[-1]
        changed.append(f"--metrics={replace_port(config.metrics, port)}")
    worker = config.worker
    if (worker.device_memory_bytes if device == "cpu" else worker.park_bytes) is None:
        changed.append(share_argument(device, share))
    return [*arguments, *changed]


def share_argument(device: str, share: HostShare) -> str:
    """What a server takes of its host's memory by default, when others take theirs too."""
    if device == "cpu":
        return f"--device-memory-gib={max(PAGE_BYTES, share.available_bytes // 2) / _GIB}"
    return f"--park-gib={default_park_bytes(share.total_bytes) / _GIB}"


def replace_port(address: Address, port: int) -> Address:
    """The same host."""
    return replace(address, port=port)


def _metrics_ports(front: Address, count: int) -> range:
    return range(front.port + 1, front.port + 1 + count)


def _number(device: str) -> int:
    return int(device.removeprefix("cuda:"))
