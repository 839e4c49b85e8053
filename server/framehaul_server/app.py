"""Puts the server together, runs it, and takes it down in order: drain, sessions, gRPC, worker.

Owns the gRPC server and the supervisor. Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from framehaul.address import Address
from framehaul.allocator import give_back
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import DATA_TYPES, PIXEL_FORMATS
from framehaul_pipeline.supervision.supervisor import Supervisor, WorkerFailed, WorkerState
from framehaul_server import logs
from framehaul_server.access.callers import Identify, as_everyone, by_token
from framehaul_server.access.reload import Watched
from framehaul_server.access.tls import Certificates
from framehaul_server.access.tokens import read_tokens
from framehaul_server.admission.places import Admission
from framehaul_server.admission.reading import Reading
from framehaul_server.admission.unread_calls import UnreadCalls
from framehaul_server.config import ServerConfig
from framehaul_server.core.highlight_request import HighlightRules
from framehaul_server.core.highlight_totals import HighlightTotals
from framehaul_server.core.limits import SessionRules
from framehaul_server.core.open_request import OpenRules
from framehaul_server.core.recorder import Recorder
from framehaul_server.core.responses import charged
from framehaul_server.errors import UnusableFile
from framehaul_server.highlight.readers import ReaderPlaces
from framehaul_server.highlight.request import Surroundings
from framehaul_server.highlight.source import UploadSpace
from framehaul_server.observe.view import ServerView
from framehaul_server.rpc.health import Health
from framehaul_server.rpc.highlights import HighlightService
from framehaul_server.rpc.info import max_response_bytes, model_info
from framehaul_server.rpc.listener import add_services, bind, make_server
from framehaul_server.rpc.service import FrameService

if TYPE_CHECKING:
    from framehaul_server.observe.http import HttpServer

_STATUS_TIMEOUT_S: Final = 1.0
"""For clients to hear how their session ended, once it was ended for them."""
_STOP_MARGIN_S: Final = 2.0
_LEASE_MS: Final = 60_000
MOST_READ: Final = 8
"""Sessions' first requests at a time."""
_READING_GRACE_S: Final = 1.0
_GIVE_BACK_S: Final = 10.0
_VERSION: Final = version("framehaul")

_log = logging.getLogger(__name__)


class App:
    """One server process."""

    def __init__(self, config: ServerConfig, *, on_ready: Callable[[str], None]) -> None:
        """Prepare; `on_ready` gets the line that says what is served, once it is. Needs a running loop.

        Raises:
            UnusableFile: certificates, keys or tokens can't be read, or hold what they shouldn't.
        """
        self._config = config
        self._certificates, self._identify = read_access(config)
        identify = self._identify
        self._on_ready = on_ready
        self._specs = config.worker.specs
        self._admission = Admission(
            config.max_sessions, max_queued=config.max_queued, max_queued_bytes=config.max_queued_bytes
        )
        self._unread_calls = UnreadCalls(config.max_sessions)
        self._health = Health(spec.name for spec in self._specs)
        self._worker_failed = asyncio.Event()
        self._recorder = recorder = Recorder(time.monotonic_ns())
        self._supervisor = Supervisor(
            config.worker,
            on_state=self._worker_changed,
            on_device_time=lambda spent: recorder.decoded(spent, time.monotonic_ns()),
        )
        self._server = make_server(config, identify, max_calls=2 * config.max_sessions + config.max_queued)
        self._http: HttpServer | None = None
        self._draining = False
        self._epoch = time.time_ns()
        self._address = config.listen
        """Where it listens, once it does."""
        self._metrics: Address | None = None
        """Where operators look, once they can."""
        reading = _reading(config)
        self._worker_ready = asyncio.Event()
        self._highlights = None
        if config.worker.reads_films:
            self._highlights = HighlightService(
                _highlights(config, self._supervisor, self._worker_ready, recorder.totals.highlights),
                identify=identify,
                admission=self._admission,
                reading=reading,
                max_request_bytes=config.max_request_bytes,
            )
        self._service = FrameService(
            worker=self._supervisor,
            identify=identify,
            admission=self._admission,
            reading=reading,
            unread_calls=self._unread_calls,
            rules=replace(session_rules(config), epoch=self._epoch),
            recorder=recorder,
            record_kernels=self._supervisor.record_kernels,
            locate=self._locate,
            info=self.info,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, drain, and clean up.

        Raises:
            CannotListen: the address is in use, or not of this machine.
            WorkerFailed: the worker doesn't start, or died past its restart budget.

        Cancellation: cleans up without draining.
        """
        self._address = bind(self._server, self._config, self._certificates)
        handlers = [self._service.handler()]
        if self._highlights is not None:
            handlers.append(self._highlights.handler())
        add_services(self._server, handlers, self._health, reflect=self._config.reflection)
        beside = [asyncio.create_task(each) for each in (self._health.run(), self._give_memory_back())]
        try:
            if self._config.metrics is not None:
                self._http = await self._observe(self._config.metrics)
            # The worker has begun to start before anybody can look.
            if await _first(self._supervisor.start(), stop.wait()) == 1:
                return
            await self._health.publish()
            await self._server.start()
            self._on_ready(self._ready_line())
            await _first(stop.wait(), self._worker_failed.wait())
            if self._worker_failed.is_set():
                self._service.fail_sessions("the worker died too often")
                await self._server.stop(_STATUS_TIMEOUT_S)
                raise WorkerFailed("the worker died too often; see the log")
            await self._drain()
        finally:
            for each in beside:
                each.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await self._stop_server()
            if self._http is not None:
                await self._http.aclose()
            await self._supervisor.aclose()

    async def _observe(self, address: Address) -> HttpServer:
        from framehaul_server.observe import metrics, page  # only where it is asked for: it takes its time
        from framehaul_server.observe.http import HttpServer

        show = self._service.show_frames if self._config.preview else None
        server = HttpServer(self._identify, [*page.routes(self._view, show), *metrics.routes(self._view)])
        self._metrics = await server.start(address, self._certificates)
        _log.info("%s", logs.line("metrics", listen=self._metrics))
        return server

    def _view(self) -> ServerView:
        self._recorder.charge_time()
        return ServerView(
            now_ns=time.monotonic_ns(),
            version=_VERSION,
            device=self._supervisor.device,
            worker_state=self._supervisor.state.value,
            num_restarts=self._supervisor.epoch - 1,
            max_sessions=self._config.max_sessions,
            num_sessions=self._admission.num_sessions,
            num_queued=self._admission.num_queued,
            max_queued=self._config.max_queued,
            worker=self._supervisor.statistics(),
            recorder=self._recorder,
            sessions=self._service.views(),
            num_readers=self._highlights.readers.number if self._highlights is not None else 0,
            num_reading=self._highlights.readers.num_held if self._highlights is not None else 0,
        )

    def _locate(self) -> pb.LocateResponse:
        return pb.LocateResponse(target=self._target(), epoch=self._epoch, lease_ms=_LEASE_MS)

    def _target(self) -> str:
        """Where clients find this server."""
        told = Address.parse(self._config.advertise) if self._config.advertise else self._address
        host = socket.gethostname() if told.is_wildcard else told.host
        return str(Address(host=host, port=told.port or self._address.port))

    def _metrics_target(self) -> list[str]:
        """Where operators find this server, if they can."""
        if self._metrics is None:
            return []
        host = Address.parse(self._target()).host if self._metrics.is_wildcard else self._metrics.host
        return [str(replace(self._metrics, host=host))]

    def info(self) -> pb.ServerInfo:
        """What the server offers, and how busy it is."""
        config, worker = self._config, self._supervisor.statistics()
        return pb.ServerInfo(
            version=_VERSION,
            device=self._supervisor.device,
            epoch=self._epoch,
            models=[model_info(spec, self._recorder.rates.of(spec.name)) for spec in self._specs],
            pixel_formats=PIXEL_FORMATS.values(),
            dtypes=DATA_TYPES.values(),
            limits=pb.Limits(
                max_sessions=config.max_sessions,
                max_pixels=config.worker.max_pixels,
                max_request_bytes=config.max_request_bytes,
                max_response_bytes=max_response_bytes(config.worker.max_pixels),
                chunk_latents=config.worker.chunk_latents,
                max_queued=config.max_queued,
            ),
            load=pb.Load(
                sessions=self._admission.num_sessions,
                slots=worker.num_slots,
                slots_in_use=worker.num_slots_held,
                session_memory_bytes=worker.session_memory_bytes,
                session_memory_used_bytes=worker.session_memory_used_bytes,
                sessions_parked=worker.num_parked,
                queued=self._admission.num_queued,
                inlet_slots=worker.num_inlet_slots,
                inlet_slots_in_use=worker.num_inlet_slots - worker.num_inlet_free,
            ),
            synthetic=config.allow_synthetic,
            charged=charged(self._recorder.seconds(time.monotonic_ns())),
            ready=self._supervisor.state is WorkerState.READY and not self._draining,
            target=self._target(),
            highlights=self._highlights.info() if self._highlights is not None else None,
            metrics=self._metrics_target(),
        )

    def _ready_line(self) -> str:
        models = ", ".join(spec.name for spec in self._specs)
        device_bytes = self._supervisor.memory_bytes
        memory = f" with {device_bytes / 1e9:.0f} GB" if device_bytes else ""
        session_bytes = self._supervisor.statistics().session_memory_bytes
        if session_bytes:
            memory += f", {session_bytes / 1e9:.1f} GB of device memory for sessions"
        return (
            f"framehaul: serving {models} on {self._address}, device {self._supervisor.device}{memory}, "
            f"{self._supervisor.shared_bytes / 1e6:.0f} MB shared memory, up to {self._config.max_sessions} sessions"
            f"{', TLS' if self._config.tls else ''}{', tokens' if self._config.tokens else ''}"
        )

    def _worker_changed(self, state: WorkerState) -> None:
        _log.info("%s", logs.line("worker", state=state.value))
        self._health.worker_changed(state)
        if state is WorkerState.READY:
            self._worker_ready.set()
        else:
            self._worker_ready.clear()
        if state is WorkerState.RESTARTING:
            self._service.worker_lost()
        if state is WorkerState.READY:
            self._service.worker_ready()
        if state is WorkerState.FAILED:
            self._worker_failed.set()

    async def _give_memory_back(self) -> None:
        """Whatever came and went; while there are sessions, freed blocks are wanted again at once."""
        while True:
            await asyncio.sleep(_GIVE_BACK_S)
            await self._admission.idle.wait()
            give_back()

    async def _drain(self) -> None:
        grace_s = self._config.grace_s
        _log.info(
            "%s",
            logs.line(
                "drain", sessions=self._admission.num_sessions, queued=self._admission.num_queued, grace_s=grace_s
            ),
        )
        self._draining = True
        self._health.drain()
        self._service.drain(grace_s)
        try:
            async with asyncio.timeout(grace_s):
                await _first(self._admission.idle.wait(), self._worker_failed.wait())
        except TimeoutError:
            _log.warning("%s", logs.line("drain_timeout", sessions=self._admission.num_sessions))
            self._service.fail_sessions("the server stops: its grace period is over")

    async def _stop_server(self) -> None:
        told_all = self._admission.idle.is_set() and not self._unread_calls.num_calls
        grace_s = None if told_all else _STATUS_TIMEOUT_S
        try:
            async with asyncio.timeout(_STATUS_TIMEOUT_S + _STOP_MARGIN_S):
                await self._server.stop(grace_s)
        except TimeoutError:
            _log.warning("%s", logs.line("stop_timeout", sessions=self._admission.num_sessions))


def read_access(config: ServerConfig) -> tuple[Certificates | None, Identify]:
    """The certificates to serve with, and who is known: everybody, or those with tokens.

    Raises:
        UnusableFile: certificates, keys or tokens can't be read, or hold what they shouldn't.
    """
    path = config.tokens
    try:
        certificates = Certificates(config.tls) if config.tls else None
        if path is None:
            return certificates, as_everyone
        return certificates, by_token(Watched("tokens", (path,), lambda: read_tokens(path)).current)
    except (OSError, ValueError) as error:
        raise UnusableFile(str(error)) from error


def _reading(config: ServerConfig) -> Reading:
    most = min(MOST_READ, config.max_sessions + config.max_queued)
    return Reading(most, grace_s=_READING_GRACE_S, timeout_s=config.first_request_timeout_s)


def _highlights(
    config: ServerConfig, supervisor: Supervisor, ready: asyncio.Event, totals: HighlightTotals
) -> Surroundings:
    return Surroundings(
        worker=supervisor,
        worker_ready=ready,
        config=config.worker,
        rules=HighlightRules(
            model=config.worker.embedding,
            has_root=config.highlight_root is not None,
            max_upload_bytes=config.highlight_upload_bytes,
            has_saliency=config.worker.saliency is not None,
        ),
        root=config.highlight_root,
        space=UploadSpace(config.highlight_upload_bytes),
        readers=ReaderPlaces(num_readers(config)),
        totals=totals,
        stall_timeout_s=config.stall_timeout_s,
    )


def num_readers(config: ServerConfig) -> int:
    """Processes that may read films at a time, where any are searched."""
    return config.highlight_readers or max(1, len(os.sched_getaffinity(0)) - 2)


def session_rules(config: ServerConfig) -> SessionRules:
    """What every session of a server with this configuration is held to."""
    worker = config.worker
    return SessionRules(
        opening=OpenRules(
            specs=worker.specs,
            max_pixels=worker.max_pixels,
            allow_synthetic=config.allow_synthetic,
            reproducible=config.reproducible,
        ),
        window_bytes=config.session_window_bytes,
        latent_bytes=config.session_latent_bytes,
        journal_bytes=config.session_journal_bytes,
        max_request_bytes=config.max_request_bytes,
        chunk_latents=worker.chunk_latents,
        stall_timeout_s=config.stall_timeout_s,
        resume_window_s=config.resume_window_s,
    )


def log_config(config: ServerConfig) -> None:
    """Log what the server was told."""
    told = asdict(config)
    worker = told.pop("worker")
    told["listen"], told["metrics"] = config.listen, config.metrics
    told["tls"] = ",".join(map(str, config.tls.paths)) if config.tls else None
    worker["models"] = ",".join(f"{model.spec.name}={model.path or 'shipped'}" for model in config.worker.models)
    worker["warm_up"] = ",".join(f"{width}x{height}" for width, height in config.worker.warm_up) or None
    _log.info("%s", logs.line("config", **told, **{f"worker.{key}": value for key, value in worker.items()}))


async def _first(*works: Coroutine[object, object, object]) -> int:
    """Await whichever ends first, cancel the others, and say which it was."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    first = next(index for index, task in enumerate(tasks) if not task.cancelled())
    tasks[first].result()
    return first
