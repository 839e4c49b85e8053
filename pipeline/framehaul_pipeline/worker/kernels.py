"""Which kernels and copies the device runs, as CUPTI sees them, for some seconds.

In the worker process, on a thread of its own, when the server asks. Nothing of it is there before: CUPTI slows each
launch down a little while it listens, and takes up to seconds to begin.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from framehaul_pipeline.link.messages import Kernels, KernelsBegun, ToServer

MOST_KERNELS: Final = 200_000
_TO_A_MESSAGE: Final = 500
_MOST_CHARACTERS: Final = 120
"""Of a name: templates have long ones."""

_log = logging.getLogger(__name__)


def begin_recording(seconds: float, send: Callable[[ToServer], None]) -> None:
    """Listen on a thread of its own, for so long, and `send` what was heard."""
    threading.Thread(target=record, args=(seconds, send), name="kernels", daemon=True).start()


def record(seconds: float, send: Callable[[ToServer], None]) -> None:
    """Listen for so long, and `send` what was heard."""
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            send(KernelsBegun())
            time.sleep(seconds)
        assert profiler.profiler is not None
        events = profiler.profiler.kineto_results.events()
        for message in messages(events, realtime_less_monotonic_ns=time.time_ns() - time.monotonic_ns()):
            send(message)
    except Exception as error:  # the device works on without
        _log.exception("kernels can't be recorded")
        send(Kernels(names=(), rows=(), last=True, error=f"{type(error).__name__}: {error}"))


def messages(events: Iterable[Any], *, realtime_less_monotonic_ns: int) -> Iterator[Kernels]:
    """What of Kineto's events ran on the device, in the order in which it began.

    Kineto's clock is the system's real time.
    """
    found = [
        (event.start_ns() - realtime_less_monotonic_ns, event.duration_ns(), event.device_resource_id(), event.name())
        for event in events
        if event.device_type() == DeviceType.CUDA
    ]
    found.sort()
    left_out = max(0, len(found) - MOST_KERNELS)
    told = found[:MOST_KERNELS]
    for start in range(0, max(1, len(told)), _TO_A_MESSAGE):
        names: dict[str, int] = {}
        rows = []
        for start_ns, duration_ns, stream, name in told[start : start + _TO_A_MESSAGE]:
            place = names.setdefault(name[:_MOST_CHARACTERS], len(names))
            rows.append((place, start_ns, duration_ns, stream))
        last = start + _TO_A_MESSAGE >= len(told)
        yield Kernels(names=tuple(names), rows=tuple(rows), last=last, left_out=left_out if last else 0)
