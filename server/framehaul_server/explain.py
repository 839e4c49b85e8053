"""What a server's options take, for `--explain`, and which can't work on this host. Pure; imports no torch."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from framehaul.formats import SLOT_BYTES_PER_PIXEL
from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.device.host_memory import FRAGMENTATION
from framehaul_pipeline.models import saliency
from framehaul_pipeline.rings.ring import PAGE_BYTES, stride_bytes
from framehaul_pipeline.scheduling.memory import MemoryLimits
from framehaul_pipeline.spec import DecoderSpec, Geometry
from framehaul_server.app import MOST_READ, num_readers, session_rules
from framehaul_server.config import ServerConfig
from framehaul_server.core.sizing import SessionNeeds
from framehaul_server.errors import CannotWork

_USUAL_SIZES: Final = ((832, 480), (1280, 720), (1920, 1088))
_COLUMNS: Final = 110
_MOST_OTHERS_READ: Final = 2
"""Requests of other methods at a time."""
_TELEVISION_CELL: Final = 16
_GIB: Final = 1 << 30
_READER_BYTES: Final = 150 << 20
"""Of a process that reads a film of 1080p."""
_SHARE_BYTES: Final = 10 * _GIB
"""Of a device's memory, for which sessions are counted when nothing says how much there is."""
_CPU_ITEMSIZE_BYTES, _GPU_ITEMSIZE_BYTES = 4, 2
"""Decoders compute in float32 on the CPU, and in 16 bits on GPUs."""


def check_host(config: ServerConfig, host_bytes: int) -> None:
    """Refuse what a host, or container, with so much memory can't hold however idle it is.

    The size of /dev/shm doesn't bound memory files, and CUDA's driver doesn't count what it pins against
    RLIMIT_MEMLOCK.

    Raises:
        CannotWork: names the option, its value and what would work.
    """
    worker = config.worker
    frames_bytes, inlet_bytes, samples_bytes = _rings(worker)
    rings_bytes = frames_bytes + inlet_bytes + samples_bytes
    if rings_bytes > host_bytes:
        pages_bytes = 2 * PAGE_BYTES * (worker.num_slots + worker.num_inlet_slots)
        fitting = worker.max_pixels * (host_bytes - samples_bytes - pages_bytes) // (frames_bytes + inlet_bytes)
        ways = [f"--max-size with at most {fitting} pixels, like {_television(fitting, _TELEVISION_CELL)}"]
        if (num_slots := (host_bytes - inlet_bytes - samples_bytes) * worker.num_slots // frames_bytes) >= 2:
            ways.insert(0, f"--slots {num_slots} or fewer")
        raise CannotWork(
            f"--slots {worker.num_slots} with a --max-size of {worker.max_pixels} pixels: their rings take "
            f"{_amount(rings_bytes)}, and this host has {_amount(host_bytes)}: must be {', or '.join(ways)}"
        )
    if worker.park_bytes and rings_bytes + worker.park_bytes > host_bytes:
        raise CannotWork(
            f"--park-gib {worker.park_bytes / _GIB:.9g}: must be at most "
            f"{math.floor((host_bytes - rings_bytes) / _GIB * 10) / 10}: this host has {_amount(host_bytes)}, of which "
            f"the rings take {_amount(rings_bytes)}"
        )


def explain(config: ServerConfig, *, host_bytes: int, free_bytes: int) -> str:
    """What these settings take of a host that has `host_bytes`, of which `free_bytes` are free, and of the device."""
    device = _Device.of(config.worker, host_bytes=host_bytes, free_bytes=free_bytes)
    sessions = [each for spec in config.worker.specs for each in _sessions(config, spec, device)]
    lines = [*_ring_lines(config.worker), "", *_host_lines(_host_parts(config, device, sessions), host_bytes)]
    for spec in config.worker.specs:
        own = [each for each in sessions if each.spec is spec]
        lines += ["", f"Sessions of {spec.name}: {_rule(spec)}", *_session_lines(own, device)]
    lines += ["", textwrap.fill(_note(config, device), _COLUMNS)]
    if config.worker.reads_films:
        lines += ["", textwrap.fill(_highlights(config, device), _COLUMNS)]
    for warning in _warnings(config, device, sessions):
        lines.append(textwrap.fill(f"! {warning}", _COLUMNS, subsequent_indent="  "))
    return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Device:
    """What is known of the device before it is opened."""

    is_cpu: bool
    limits: MemoryLimits
    room_bytes: int
    """For sessions."""
    is_known: bool
    """Whether that is all there is, or a share of what only the device can tell."""

    @property
    def heading(self) -> str:
        """Over the numbers of sessions that it holds."""
        return f"in {'' if self.is_known else 'each '}{_amount(self.room_bytes)}"

    @property
    def parked_heading(self) -> str:
        """Over the numbers of those that are parked."""
        return f"parked in {_amount(self.limits.park_bytes)}" if self.limits.park_bytes else "parked"

    @classmethod
    def of(cls, worker: WorkerConfig, *, host_bytes: int, free_bytes: int) -> _Device:
        is_cpu = worker.device == "cpu"
        limits = MemoryLimits.of(worker, own_memory=not is_cpu, host_bytes=host_bytes)
        room_bytes = limits.device_total(free_bytes // FRAGMENTATION if is_cpu else None)
        return cls(
            is_cpu=is_cpu,
            limits=limits,
            room_bytes=_SHARE_BYTES if room_bytes is None else room_bytes,
            is_known=room_bytes is not None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    """A session of one model and size."""

    spec: DecoderSpec
    size: str
    needs: SessionNeeds
    num_on_device: int | None
    """None: it has no state."""
    num_parked: int
    """Beyond those."""

    @property
    def who(self) -> str:
        """For warnings."""
        return f"{self.spec.name} at {self.size}"


def _sessions(config: ServerConfig, spec: DecoderSpec, device: _Device) -> Iterator[_Session]:
    """Of the usual sizes, those to warm up with and the largest, as far as the server and the model take them."""
    worker, factor = config.worker, spec.spatial_factor
    shapes = {
        f"{width}x{height}": Geometry(channels=spec.channels, height=height // factor, width=width // factor)
        for width, height in sorted({*_USUAL_SIZES, *worker.warm_up}, key=math.prod)
        if width * height <= worker.max_pixels and not (width % factor or height % factor)
    }
    most_cells = worker.max_pixels // factor**2
    if not any(each.height * each.width == most_cells for each in shapes.values()):
        largest = f"{most_cells * factor**2} pixels"
        shapes[largest] = Geometry(channels=spec.channels, height=1, width=most_cells)
    for size, geometry in shapes.items():
        needs = SessionNeeds.of(
            spec,
            geometry,
            session_rules(config),
            slot_bytes=worker.slot_bytes,
            state_itemsize_bytes=_CPU_ITEMSIZE_BYTES if device.is_cpu else _GPU_ITEMSIZE_BYTES,
        )
        alike = device.limits.most_alike(device.room_bytes, needs.state_bytes) if needs.state_bytes else (None, 0)
        yield _Session(spec=spec, size=size, needs=needs, num_on_device=alike[0], num_parked=alike[1])


def _rings(worker: WorkerConfig) -> tuple[int, int, int]:
    """Bytes of frames, of latents, and of films' samples."""
    frames_bytes = worker.num_slots * stride_bytes(worker.slot_bytes)
    samples_bytes = worker.num_sample_slots * stride_bytes(worker.sample_slot_bytes) if worker.reads_films else 0
    return frames_bytes, worker.num_inlet_slots * stride_bytes(worker.inlet_slot_bytes), samples_bytes


def _ring_lines(worker: WorkerConfig) -> list[str]:
    frames_bytes, inlet_bytes, samples_bytes = _rings(worker)
    rows = [
        ("  frames", *_times(worker.num_slots, "slots of", frames_bytes), "  --slots, --max-size"),
        ("  latents", *_times(worker.num_inlet_slots, "slots of", inlet_bytes), "  --chunk-latents, --max-size"),
    ]
    if samples_bytes:
        rows.append(("  samples", *_times(worker.num_sample_slots, "slots of", samples_bytes), "  --highlight"))
    rows.append(("  all" if samples_bytes else "  both", "", _amount(sum(_rings(worker))), ""))
    return ["Memory that server and worker share, pinned on a GPU", *_table(rows)]


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the host's memory: so many of a thing, and the options that say how many and how large."""

    name: str
    count: int
    each_bytes: int
    options: str = ""

    @property
    def all_bytes(self) -> int:
        return self.count * self.each_bytes


def _host_parts(config: ServerConfig, device: _Device, sessions: Iterable[_Session]) -> list[_Part]:
    session_bytes = max(each.needs.host_bytes for each in sessions)
    num_read = min(MOST_READ, config.max_sessions + config.max_queued) + _MOST_OTHERS_READ
    window = "--max-sessions, --session-window-mib, --max-request-mib"
    parts = [
        _Part("rings", 1, sum(_rings(config.worker))),
        _Part("sessions", config.max_sessions, session_bytes, window),
        _Part("requests being read", num_read, config.max_request_bytes, "--max-request-mib"),
        _Part("queue", 1, config.max_queued_bytes if config.max_queued else 0, "--max-queued-mib"),
        _Part("parked sessions", 1, device.limits.park_bytes, "--park-gib"),
        _Part("readers", num_readers(config) if config.worker.reads_films else 0, _READER_BYTES, "--highlight-readers"),
        _Part("decoding", FRAGMENTATION, device.room_bytes if device.is_cpu else 0, "--device-memory-gib"),
    ]
    return [part for part in parts if part.all_bytes]


def _host_lines(parts: Sequence[_Part], host_bytes: int) -> list[str]:
    rows = [
        (f"  {part.name}", *_times(part.count, "x", part.all_bytes), f"  {part.options}" if part.options else "")
        for part in parts
    ]
    all_bytes = sum(part.all_bytes for part in parts)
    rows.append(("  all", "", _amount(all_bytes), ""))
    lines = [f"Memory of this host, which has {_amount(host_bytes)}, at most", *_table(rows)]
    if all_bytes > host_bytes:
        lines.append(
            "  ! more than the host has, if all is used at once; smaller values of these options, and tenants'"
        )
        lines.append("    max_waiting_mib for what sessions hold, bound it")
    return lines


def _session_lines(sessions: Iterable[_Session], device: _Device) -> list[str]:
    rows = [("  size", "frame", "chunk", "window", "on the host", "state", device.heading, device.parked_heading)]
    for each in sessions:
        needs = each.needs
        rows.append(
            (
                f"  {each.size}",
                _amount(needs.frame_bytes),
                _count(needs.chunk_latents, "latent"),
                _count(needs.window.max_frames, "frame"),
                _amount(needs.host_bytes),
                _amount(needs.state_bytes) if needs.state_bytes else "none",
                "any" if each.num_on_device is None else str(each.num_on_device),
                f"+{each.num_parked}" if each.num_parked else "-",
            )
        )
    return _table(rows)


def _rule(spec: DecoderSpec) -> str:
    needed = _count(spec.lookahead_latents + 1, "latent")
    return f"{_count(spec.temporal_factor, 'frame')} a latent, the first out after {needed}"


def _note(config: ServerConfig, device: _Device) -> str:
    """How to read the numbers."""
    free = "half of what this host has free" if device.is_cpu else "what is free once models are loaded"
    given = config.worker.device_memory_bytes is not None
    share = f"--device-memory-gib, or {free} if that is less" if given else f"{free} (--device-memory-gib says less)"
    assumed = "--device auto is a GPU if there is one, as assumed here; --device cpu shows the CPU."
    return (
        "A chunk is the most latents that are decoded together, a window the most frames that wait for a client. "
        f"Sessions share {share}. Decoding a chunk takes of it too, once for all of them; only a worker knows how "
        f"much, so the numbers of sessions are the most. {assumed if config.worker.device == 'auto' else ''}"
    ).rstrip()


def _highlights(config: ServerConfig, device: _Device) -> str:
    """What films take besides."""
    model, taken = config.worker.embedding, []
    if model is not None:
        taken.append(f"Films are compared by {model.name}, which takes device memory beside that of sessions.")
    if config.worker.saliency is not None:
        num_bytes = saliency.CPU_BYTES if device.is_cpu else saliency.GPU_BYTES
        taken.append(
            f"{saliency.NAME} says where people look, with {_amount(num_bytes)} of "
            f"{'host memory' if device.is_cpu else 'the device, beside sessions'} (--highlight-saliency)."
        )
    taken.append(
        f"Uploads have up to {_amount(config.highlight_upload_bytes)} of disk in TMPDIR (--highlight-upload-mib). Each "
        "request has the place of a session."
    )
    return " ".join(taken)


def _warnings(config: ServerConfig, device: _Device, sessions: Sequence[_Session]) -> Iterator[str]:
    """What works, and may not be what was meant; of each model for the smallest size that it is true of."""
    queued_bytes, request_bytes = config.max_queued_bytes, config.max_request_bytes
    if config.max_queued and queued_bytes < request_bytes:
        yield (
            f"--max-queued-mib {queued_bytes >> 20}: a larger first request can't wait for a place; "
            f"--max-queued-mib {request_bytes >> 20} lets all wait that --max-request-mib allows"
        )
    for spec in config.worker.specs:
        own = [each for each in sessions if each.spec is spec]
        for find in (_cannot_be_sent, _window_is_raised, _fits_nowhere, _is_never_parked):
            found = (text for each in own if (text := find(config, device, each)))
            yield from islice(found, 1)


def _cannot_be_sent(config: ServerConfig, device: _Device, session: _Session) -> str | None:
    del device
    if (latent_bytes := session.needs.latent_bytes) <= config.max_request_bytes:
        return None
    return (
        f"--max-request-mib {config.max_request_bytes >> 20}: too little for a latent of {session.who}, which is "
        f"{_amount(latent_bytes)} in half precision, so nobody can send it"
    )


def _window_is_raised(config: ServerConfig, device: _Device, session: _Session) -> str | None:
    del device
    least = session.needs.window.min_frames
    if (least_bytes := least * session.needs.frame_bytes) <= config.session_window_bytes:
        return None
    return (
        f"--session-window-mib {config.session_window_bytes >> 20}: for {session.who} it is raised to {least} frames, "
        f"{_amount(least_bytes)}: what one more latent may give"
    )


def _fits_nowhere(config: ServerConfig, device: _Device, session: _Session) -> str | None:
    if session.num_on_device != 0 or not device.is_known:
        return None
    state_bytes, cell = session.needs.state_bytes, session.spec.spatial_factor**2
    pixels = session.needs.frame_bytes // SLOT_BYTES_PER_PIXEL
    fitting = (
        (device.room_bytes // device.limits.page_bytes * device.limits.page_bytes)
        * pixels
        // state_bytes
        // cell
        * cell
    )
    given_bytes = config.worker.device_memory_bytes
    room = (
        f"--device-memory-gib {given_bytes / _GIB:.9g}" if given_bytes else f"{_amount(device.room_bytes)} for sessions"
    )
    return (
        f"{room}: too little for the state of {session.who}, {_amount(state_bytes)}; "
        f"the largest size that fits has {fitting} pixels, like {_television(fitting, session.spec.spatial_factor)}"
    )


def _is_never_parked(config: ServerConfig, device: _Device, session: _Session) -> str | None:
    if not config.worker.park_bytes or session.num_parked or not session.num_on_device:
        return None
    return (
        f"--park-gib {config.worker.park_bytes / _GIB:.9g}: parks no session of {session.who}; swapping needs room for "
        f"two states, --park-gib {2 * device.limits.whole_pages(session.needs.state_bytes) / _GIB:.9g}"
    )


def _television(num_pixels: int, factor: int) -> str:
    """A size with that many pixels or less, 16 by 9 or nearly, in whole cells of `factor` pixels each way."""
    width = max(factor, int(math.sqrt(num_pixels * 16 / 9)) // factor * factor)
    return f"{width}x{num_pixels // width // factor * factor}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _amount(num_bytes: int) -> str:
    """Three digits of KiB, MiB or GiB."""
    shift, unit = (30, "GiB") if num_bytes >= _GIB else (20, "MiB") if num_bytes >= 1 << 20 else (10, "KiB")
    value = num_bytes / (1 << shift)
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def _times(count: int, of: str, all_bytes: int) -> tuple[str, str]:
    if count == 1:
        return "", _amount(all_bytes)
    return f"{count} {of} {_amount(all_bytes // count)}", _amount(all_bytes)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column > 0 and not cell.startswith(" ") else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
