"""The decoder of `harm`, in the worker. Points after the decode are seen as a debugger sees them: none is replaced."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec
import torch

from framehaul_pipeline.decoders.base import Decoder, State
from framehaul_pipeline.decoders.engine.plans import PlanTable
from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.models.model import Model
from framehaul_pipeline.scheduling.chunks import Chunk
from framehaul_pipeline.worker.worker import Worker
from tests.faults.harm import HANGS, Harm

_PATIENCE_S: Final = 30.0
_SOON_S: Final = 0.3
_SIGNALS: Final = {
    **{harm: signal.SIGKILL for harm in Harm if harm.name.startswith("KILL_")},
    **{harm: signal.SIGSTOP for harm in Harm if harm.name.startswith("STOP_")},
}
_POINTS: Final = {
    (Worker.complete.__code__, "call"): "COPYING",
    (Worker.publish.__code__, "call"): "STAMPING",
    (Worker.publish.__code__, "return"): "PUBLISHED",
}
_planned: dict[Chunk, Harm] = {}


def load(model: Model, device: torch.device, plans: PlanTable | None) -> "HarmfulDecoder":
    """Called before the worker starts the threads that are watched."""
    threading.setprofile(_watch)
    decoder = load_decoder(msgspec.convert(model.config["model"], Model), device, plans)
    return HarmfulDecoder(decoder, model.config["once"])


class HarmfulDecoder:
    """The given decoder, until it is told otherwise."""

    def __init__(self, decoder: Decoder, once: str | None) -> None:
        self._decoder = decoder
        self._once = once
        self.spec = decoder.spec

    def __getattr__(self, name: str) -> object:
        return getattr(self._decoder, name)

    def step(self, latents: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        for value in latents[:, 0, 0, 0].tolist():
            if value in list(Harm) and self._may_harm():
                _do(Harm(int(value)))
        return self._decoder.step(latents, state)

    def _may_harm(self) -> bool:
        if self._once is None:
            return True
        try:
            Path(self._once).unlink()
        except FileNotFoundError:
            return False
        return True


def _do(harm: Harm) -> None:
    match harm:
        case Harm.RAISE:
            raise RuntimeError("told to fail")
        case Harm.OUT_OF_MEMORY:
            raise torch.OutOfMemoryError("told to be out of memory")
        case Harm.HANG:
            Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(HANGS)
            threading.Event().wait()
        case Harm.KILL_DECODING | Harm.STOP_DECODING:
            _end(_SIGNALS[harm])
        case _:
            _planned[_launched()] = harm


def _launched() -> Chunk:
    """The chunk that this thread is launching."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not Worker.run.__code__:
        frame = frame.f_back
    assert frame is not None
    chunk: Chunk = frame.f_locals["job"].chunk
    return chunk


def _watch(frame: FrameType, event: str, _: object) -> None:
    if threading.current_thread().name not in ("completion", "checksum"):
        sys.setprofile(None)
        return
    point = _POINTS.get((frame.f_code, event))
    harm = _planned.get(frame.f_locals["flight"].chunk) if point else None
    if harm is Harm.DIE_BESIDE:
        _die_beside_others(frame.f_locals["self"], frame.f_locals["flight"].chunk.session)
    elif harm is not None and harm.name.endswith(f"_{point}"):
        _end(_SIGNALS[harm])


def _die_beside_others(worker: Worker, session: int) -> None:
    end_s = time.monotonic() + (_SOON_S if worker._suspects._alone_until else _PATIENCE_S)
    while worker._ring.noted() == {session} and time.monotonic() < end_s:
        time.sleep(0.005)
    _end(signal.SIGKILL)


def _end(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    threading.Event().wait()  # a stop takes the other threads a moment
