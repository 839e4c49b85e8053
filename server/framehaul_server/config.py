"""Configuration of the server process: what it can be told, and by which options.

The values are checked when they are made, and logged once at start. `OPTIONS` is the one table of how they are told.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from framehaul.address import Address
from framehaul.formats import parse_size
from framehaul.logs import LEVELS
from framehaul.options import file_name, reader
from framehaul_pipeline.config import WorkerConfig
from framehaul_server.access.tls import TlsFiles
from framehaul_server.core.tenants import MAX_QUEUED


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything the server process can be told."""

    listen: Address = field(default_factory=lambda: Address(host="127.0.0.1", port=50051))
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    devices: tuple[str, ...] = ()
    """A server for each of them, behind a front at `listen`; `all` is every GPU. Empty: one server, on its worker's."""
    advertise: str | None = None
    """What `Locate` answers, port 0 stands for the bound one; None: the bound address, or this machine's name when that
    is a wildcard."""
    max_sessions: int = 64
    max_queued: int = 64
    """Sessions that wait for a place; 0: those without one are refused at once."""
    max_queued_bytes: int = 256 << 20
    """First requests of all sessions that wait for a place."""
    session_window_bytes: int = 64 << 20
    """Frames decoded, and not yet taken by the client, of one session."""
    session_latent_bytes: int = 16 << 20
    """Latents received, and not yet taken over by the worker, of one session."""
    max_request_bytes: int = 64 << 20
    first_request_timeout_s: float = 30.0
    session_journal_bytes: int = 64 << 20
    """Latents that the worker took over, kept for the case that it dies, of one session."""
    resume_window_s: float = 30.0
    """How long a resumable session waits for its client after the connection was lost."""
    keepalive_s: float = 10.0
    """Silence after which a connection is pinged."""
    stall_timeout_s: float = 600.0
    """A client that takes no frame and sends no latent for so long loses its session."""
    grace_s: float = 30.0
    """From the first signal until running sessions are ended."""
    highlight: bool = False
    """Search films."""
    highlight_root: Path | None = None
    """Films below this folder may be named by clients; None: they upload theirs."""
    highlight_saliency: Path | None = None
    """TASED-Net's weights; None: nobody is told where people look."""
    highlight_upload_bytes: int = 4 << 30
    """Of all uploads together, on disk."""
    highlight_readers: int = 0
    """Processes that read films at a time; 0: one for each processor but two."""
    reproducible: bool = False
    """Sessions are, unless they say otherwise."""
    allow_synthetic: bool = False
    reflection: bool = False
    tls: TlsFiles | None = None
    """Serve with these certificates; None: without TLS."""
    tokens: Path | None = None
    """Tenants and the digests of their tokens; None: everybody is let in, as one tenant."""
    metrics: Address | None = None
    """Where operators look, over HTTP; None: nowhere."""
    preview: bool = True
    """The page there shows small pictures of what is decoded."""
    insecure: bool = False
    """Listen beyond loopback even without TLS, or without asking who calls."""
    log_level: str = "info"
    explain: bool = False
    """Say what all this takes, and start nothing."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: names the field, its value and the range.
        """
        if self.exposed and not self.insecure:
            raise ValueError(
                f"listen={self.listen}: others than this machine reach it, which needs {self.exposed}; --insecure does "
                "without, for networks where every machine is trusted"
            )
        if self.metrics is not None and not (self.metrics.is_loopback or self.tokens or self.insecure):
            raise ValueError(
                f"metrics={self.metrics}: others than this machine reach it, which needs tokens (--tokens); --insecure "
                "does without, for networks where every machine is trusted"
            )
        if self.advertise is not None:
            Address.parse(self.advertise)
        _check_devices(self.devices, self.worker.device)
        if self.devices and self.metrics is not None and not self.metrics.port:
            raise ValueError(
                f"metrics={self.metrics}: must name a port with devices, whose servers take those after it"
            )
        if self.log_level not in LEVELS:
            raise ValueError(f"log_level={self.log_level}: must be one of {', '.join(LEVELS)}")
        for name, low, high in (
            ("max_sessions", 1, 10_000),
            ("max_queued", 0, MAX_QUEUED),
            ("max_queued_bytes", 0, 1 << 40),
            ("session_window_bytes", 1 << 20, 1 << 40),
            ("session_latent_bytes", 1 << 10, 1 << 40),
            ("max_request_bytes", 64 << 10, (1 << 31) - 1),
            ("session_journal_bytes", 1 << 10, 1 << 40),
            ("resume_window_s", 0.0, 3600.0),
            ("first_request_timeout_s", 0.01, 3600.0),
            ("keepalive_s", 0.1, 3600.0),
            ("stall_timeout_s", 0.1, 86400.0),
            ("grace_s", 0.0, 3600.0),
            ("highlight_upload_bytes", 1 << 20, 1 << 50),
            ("highlight_readers", 0, 1024),
        ):
            if not low <= (value := getattr(self, name)) <= high:
                raise ValueError(f"{name}={value}: must be {low}..{high}")

    @property
    def exposed(self) -> str:
        """What a server that other machines reach lacks; empty when it lacks nothing, or only this one reaches it."""
        if self.listen.is_loopback:
            return ""
        lacking = [] if self.tls else ["TLS (--tls-cert and --tls-key)"]
        if not (self.tokens or (self.tls and self.tls.client_ca)):
            lacking.append("tokens (--tokens) or clients' certificates (--tls-client-ca)")
        return " and ".join(lacking)


def _check_devices(devices: tuple[str, ...], device: str) -> None:
    told = ",".join(devices)
    if devices and device != "auto":
        raise ValueError(f"devices={told}: device={device} can't be given beside it")
    for each in devices:
        if each not in ("all", "cpu") and not re.fullmatch(r"cuda:[0-9]{1,3}", each):
            raise ValueError(f"devices={told}: {each!r} must be cuda:N or cpu; or all, alone")
        if each != "cpu" and devices.count(each) > 1:
            raise ValueError(f"devices={told}: {each} is there twice")
    if "all" in devices and len(devices) > 1:
        raise ValueError(f"devices={told}: all must be alone")


@dataclass(frozen=True, slots=True)
class Kind:
    """How the values of an option are written."""

    metavar: str
    """Stands for the value in `--help`."""
    read: Callable[[str], Any] = str
    """Makes the value of its text; raises `ValueError`, which says what is allowed."""
    show: Callable[[Any], str] = str
    """Makes the text of a default."""
    many: bool = False
    """The option may be given several times; its variable separates texts by commas."""


@dataclass(frozen=True, slots=True)
class Option:
    """How one value is told."""

    flag: str
    field: str
    """Of `ServerConfig`, which also has the default; `worker.` and `tls.` lead to fields of what it holds."""
    kind: Kind
    help: str
    group: str = ""
    """The heading that it stands under in `--help`."""

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "FRAMEHAUL_" + self.flag.removeprefix("--").replace("-", "_").upper()

    @property
    def default(self) -> str | None:
        """The text of its default, if it has one."""
        value: Any = _DEFAULTS
        for name in self.field.split("."):
            value = getattr(value, name, None)
        return None if value is None else self.kind.show(value)


def _area(text: str) -> int:
    width, height = parse_size(text)
    return width * height


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    return tuple(parse_size(part) for part in text.split(",")) if text else ()


SWITCH: Final = Kind("", show=lambda on: str(int(on)))
"""`--flag` or `--no-flag`; 1 or 0 in the environment."""
FLAG: Final = Kind("")
"""`--flag`, for this time alone: the environment doesn't say it."""
_ADDRESS: Final = Kind("HOST:PORT", Address.parse)
_AREA: Final = Kind("WIDTHxHEIGHT", _area, lambda pixels: f"1920x{pixels // 1920}")
_DEVICES: Final = Kind("DEVICE[,DEVICE...]", _names, ",".join)
_COUNT: Final = Kind("N", reader(int, "a whole number"))
_FILE: Final = Kind("FILE", lambda text: Path(file_name(text)))
_FOLDER: Final = Kind("DIR", _FILE.read)
_GIB: Final = Kind("GIB", reader(lambda text: int(float(text) * (1 << 30)), "a number of GiB"))
_MIB: Final = Kind("MIB", reader(lambda text: int(text) << 20, "a whole number"), lambda size: str(size >> 20))
_MODELS: Final = Kind("NAME[=PATH]", show=lambda models: ",".join(model.spec.name for model in models), many=True)
_MODULES: Final = Kind("MODULE", many=True)
_SECONDS: Final = Kind("SECONDS", reader(float, "a number"), "{:g}".format)
_SIZES: Final = Kind("WIDTHxHEIGHT", _sizes, lambda sizes: ",".join(f"{width}x{height}" for width, height in sizes))

_DEFAULTS: Final = ServerConfig()
_RESTART_MINUTES: Final = _DEFAULTS.worker.restart_window_s / 60

_session: Final = partial(Option, group="sessions and their queue")
_worker: Final = partial(Option, group="frames, memory and the worker")
_access: Final = partial(Option, group="who may call")
_watching: Final = partial(Option, group="watching and testing")
_film: Final = partial(Option, group="searching films")

# In the order of `--help`.
OPTIONS: Final = (
    Option("--listen", "listen", _ADDRESS, "where to listen; port 0 picks a free one"),
    Option(
        "--keepalive",
        "keepalive_s",
        _SECONDS,
        "ping a silent connection after so long; one that doesn't answer within half of that is dropped",
    ),
    Option(
        "--advertise",
        "advertise",
        Kind("HOST:PORT"),
        "address that Locate answers, port 0 is the bound one; default is the bound address",
    ),
    Option("--device", "worker.device", Kind("DEVICE"), "auto, cpu, cuda or cuda:N"),
    Option(
        "--devices",
        "devices",
        _DEVICES,
        "all GPUs (all), or those named, as cuda:0,cuda:3: a server for each behind the one address; see docs/fleet.md",
    ),
    Option(
        "--model",
        "worker.models",
        _MODELS,
        "tiny, or a name and where its VAE lies: a folder as diffusers saves it, or a safetensors file, with "
        "#sha256=HEX behind it to pin the weights. Several options serve several models, the first is the default",
    ),
    Option("--plugin", "plugins", _MODULES, "a module with a decoder of its own; see docs/models.md"),
    Option("--grace", "grace_s", _SECONDS, "time for running sessions after the first signal"),
    Option("--log-level", "log_level", Kind("LEVEL"), ", ".join(LEVELS)),
    Option(
        "--explain",
        "explain",
        FLAG,
        "print what these options take, slots, host memory and state of sessions by size, and how many sessions fit; "
        "starts nothing",
    ),
    _session("--max-sessions", "max_sessions", _COUNT, "sessions at a time; more wait in a queue"),
    _session("--max-queued", "max_queued", _COUNT, "sessions in the queue; more are refused, 0 has none"),
    _session("--max-queued-mib", "max_queued_bytes", _MIB, "their first requests together, MiB"),
    _session("--max-request-mib", "max_request_bytes", _MIB, "largest request, a Render's clip say, in MiB"),
    _session(
        "--session-window-mib",
        "session_window_bytes",
        _MIB,
        "frames that may wait for one client, in MiB; times --max-sessions is the most they can hold",
    ),
    _session(
        "--resume-window",
        "resume_window_s",
        _SECONDS,
        "how long a session waits for its client after its connection was lost",
    ),
    _session(
        "--stall-timeout",
        "stall_timeout_s",
        _SECONDS,
        "end a session whose client has neither taken a frame nor sent a latent for so long",
    ),
    _worker("--max-size", "worker.max_pixels", _AREA, "largest frame, by its area; sizes the rings"),
    _worker("--slots", "worker.num_slots", _COUNT, "chunks of frames in shared memory"),
    _worker("--chunk-latents", "worker.chunk_latents", _COUNT, "most latents decoded together"),
    _worker(
        "--reproducible",
        "reproducible",
        SWITCH,
        "the same latents give the same bytes, whatever the load, in sessions that don't say: latents are decoded one "
        "by one, which takes longer with some decoders",
    ),
    _worker(
        "--warm-up",
        "worker.warm_up",
        _SIZES,
        "frame sizes, separated by commas, to decode once with each model before serving: their first client need not "
        "wait while kernels are chosen",
    ),
    _worker(
        "--device-memory-gib",
        "worker.device_memory_bytes",
        _GIB,
        "device memory for sessions; default is what is free once models are loaded, on the CPU half of the host's",
    ),
    _worker(
        "--park-gib",
        "worker.park_bytes",
        _GIB,
        "host memory for the state of sessions that stand still; 0 keeps it on the device; "
        "default is a quarter of the host's (or its container's), at most 16; on the CPU 0",
    ),
    _worker(
        "--standby",
        "worker.standby",
        SWITCH,
        "keep a process ready to take over from a worker that dies: 0.5 GB of memory, none of the device",
    ),
    _worker(
        "--max-restarts",
        "worker.max_restarts",
        _COUNT,
        f"replace a worker that died so often in {_RESTART_MINUTES:g} minutes; after that the server ends",
    ),
    _worker(
        "--chunk-timeout",
        "worker.chunk_timeout_s",
        _SECONDS,
        "a worker that doesn't answer for so long, or takes so long (or 20 times the usual) for a chunk, is replaced",
    ),
    _access("--tls-cert", "tls.certificate", _FILE, "serve with TLS: this certificate and those above it, PEM"),
    _access("--tls-key", "tls.key", _FILE, "its key, PEM; changed files are read again"),
    _access(
        "--tls-client-ca", "tls.client_ca", _FILE, "let in only clients with a certificate of these authorities, PEM"
    ),
    _access("--tokens", "tokens", _FILE, "let in only clients with a token of this file; see docs/operations.md"),
    _access("--insecure", "insecure", SWITCH, "allow addresses other than loopback even without TLS or tokens"),
    _watching("--metrics", "metrics", _ADDRESS, "serve metrics for Prometheus, and a page for people, there by HTTP"),
    _watching(
        "--preview", "preview", SWITCH, "small pictures of what each session decodes, on that page, while it is open"
    ),
    _watching("--reflection", "reflection", SWITCH, "serve gRPC reflection"),
    _watching(
        "--allow-synthetic", "allow_synthetic", SWITCH, "allow clips that the server makes from a seed, for load tests"
    ),
    _film(
        "--highlight",
        "highlight",
        SWITCH,
        "search films for what pictures show; needs framehaul[highlight], or a model. Films are strangers' bytes: see "
        "SECURITY.md",
    ),
    _film(
        "--highlight-model",
        "highlight_model",
        _FOLDER,
        "search by this CLIP or SigLIP, a folder as transformers saves it: for texts too; needs "
        "framehaul[highlight-model]",
    ),
    _film(
        "--highlight-root", "highlight_root", _FOLDER, "a folder whose films clients may name; else they upload theirs"
    ),
    _film(
        "--highlight-saliency",
        "highlight_saliency",
        _FILE,
        "TASED-Net's weights, a safetensors file: say where people look in films, and crop around that; works without "
        "--highlight",
    ),
    _film("--highlight-upload-mib", "highlight_upload_bytes", _MIB, "uploaded films together, on disk, in MiB"),
    _film(
        "--highlight-readers",
        "highlight_readers",
        _COUNT,
        "processes that read films at a time; 0 has one for each processor but two",
    ),
)
