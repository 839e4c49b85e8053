"""The worker process with a decoder that does harm on command: `process.ENTRY_MODULE` for tests of faults.

A latent whose first value is one of `Harm` says what goes wrong with its chunk, and where. Everything else is the
product's own worker.

Where the environment's `HARM_ONCE` names a file, harm is done only by the worker that removes it: the next one decodes
the same latents.
"""

import os
import signal
import sys
import threading
import time
from enum import IntEnum
from pathlib import Path
from typing import Final

HARM_ONCE: Final = "FRAMEHAUL_TEST_HARM_ONCE"


class Harm(IntEnum):
    """Values are exact in float16 and bfloat16, and far from any latent of a real clip."""

    RAISE = 2048
    OUT_OF_MEMORY = 2064
    HANG = 2080
    """The decoder never returns; the process still answers."""
    KILL_DECODING = 2304
    KILL_COPYING = 2320
    KILL_STAMPING = 2336
    KILL_PUBLISHED = 2352
    STOP_DECODING = 2560
    STOP_COPYING = 2576
    STOP_STAMPING = 2592
    STOP_PUBLISHED = 2608
    DIE_BESIDE = 2816
    """Killed before the chunk is copied, once the worker is at work for another session too. Where it keeps a session
    alone, that may never be: soon in any case."""


_PATIENCE_S: Final = 30.0
_SOON_S: Final = 0.3

_SIGNALS: Final = {
    **{harm: signal.SIGKILL for harm in Harm if harm.name.startswith("KILL_")},
    **{harm: signal.SIGSTOP for harm in Harm if harm.name.startswith("STOP_")},
}


def main() -> int:
    """Run the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    import torch

    from framehaul_pipeline.decoders.base import Decoder, State
    from framehaul_pipeline.worker import main as entry
    from framehaul_pipeline.worker import start
    from framehaul_pipeline.worker.jobs import Job
    from framehaul_pipeline.worker.launch import InFlight
    from framehaul_pipeline.worker.worker import Worker

    planned: list[Harm] = []
    deadly: set[int] = set()
    """Sessions that are to die when their chunk comes to be copied."""

    def may_harm() -> bool:
        once = os.environ.get(HARM_ONCE)
        if once is None:
            return True
        try:
            Path(once).unlink()
        except FileNotFoundError:
            return False
        return True

    def reach(point: str) -> None:
        if planned and planned[0].name.endswith(point):
            os.kill(os.getpid(), _SIGNALS[planned.pop()])
            threading.Event().wait()  # a stop takes the other threads a moment

    class HarmfulDecoder:
        """The given decoder, until it is told otherwise."""

        def __init__(self, decoder: Decoder) -> None:
            self._decoder = decoder
            self.spec = decoder.spec

        def __getattr__(self, name: str) -> object:
            return getattr(self._decoder, name)

        def step(self, latents: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
            for value in latents[:, 0, 0, 0].tolist():
                if value in list(Harm) and may_harm():
                    self._do(Harm(int(value)))
            return self._decoder.step(latents, state)

        def _do(self, harm: Harm) -> None:
            match harm:
                case Harm.RAISE:
                    raise RuntimeError("told to fail")
                case Harm.OUT_OF_MEMORY:
                    raise torch.OutOfMemoryError("told to be out of memory")
                case Harm.HANG:
                    threading.Event().wait()
                case _:
                    planned.append(harm)
                    reach("DECODING")

    class HarmfulWorker(Worker):
        """Reaches the later points of a chunk's life."""

        def run(self, job: Job) -> InFlight | None:
            flight = super().run(job)
            if flight is not None and Harm.DIE_BESIDE in planned:
                planned.remove(Harm.DIE_BESIDE)
                deadly.add(flight.chunk.session)
            return flight

        def complete(self, flight: InFlight) -> None:
            if flight.chunk.session in deadly:
                self._die_beside_others(flight.chunk.session)
            reach("COPYING")
            super().complete(flight)

        def publish(self, flight: InFlight) -> None:
            reach("STAMPING")
            super().publish(flight)
            reach("PUBLISHED")

        def _die_beside_others(self, session: int) -> None:
            end_s = time.monotonic() + (_SOON_S if self._suspects._alone_until else _PATIENCE_S)
            while self._ring.noted() == {session} and time.monotonic() < end_s:
                time.sleep(0.005)
            os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()

    names = vars(entry)
    load = names["load_decoder"]

    def load_harmful(*arguments: object, **named: object) -> HarmfulDecoder:
        return HarmfulDecoder(load(*arguments, **named))

    names["load_decoder"] = load_harmful
    names["Worker"] = HarmfulWorker
    return start.main()


if __name__ == "__main__":
    sys.exit(main())
