"""The worker on a device in this process, one call at a time."""

import struct
from typing import Self

from framehaul_pipeline.decoders.base import Decoder
from framehaul_pipeline.device.devices import CpuDevice
from framehaul_pipeline.link.messages import (
    EndOfLatents,
    LatentReady,
    MemoryUsed,
    OpenSession,
    Published,
    SessionFailed,
    ToServer,
)
from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.scheduling.memory import MemoryLimits
from framehaul_pipeline.worker.highlights import BatchJob
from framehaul_pipeline.worker.worker import Worker
from tests.support.fake_decoder import FakeDecoder, fake_opening

NO_LIMITS = MemoryLimits()


class Bench:
    """A worker with its rings, its messages caught in a list; `used` is what it told last of its memory."""

    used: MemoryUsed

    def __init__(
        self,
        device: CpuDevice | None = None,
        limits: MemoryLimits = NO_LIMITS,
        *,
        slot_bytes: int = 48,
        latent_bytes: int = 4,
        **more: Decoder,
    ) -> None:
        self.ring = Ring.create("framehaul-worker", num_slots=3, slot_bytes=slot_bytes)
        self.inlet = Ring.create("framehaul-worker-inlet", num_slots=4, slot_bytes=latent_bytes)
        self.sent: list[ToServer] = []
        decoders: dict[str, Decoder] = {"fake": FakeDecoder(), **more}
        self.worker = Worker(
            device or CpuDevice(), self.ring, self.inlet, decoders, chunk_latents=2, limits=limits, send=self.send
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.stop()
        self.worker.drain()
        self.ring.close()
        self.inlet.close()

    def send(self, message: ToServer) -> None:
        if isinstance(message, MemoryUsed):
            self.used = message
        else:
            self.sent.append(message)

    def open(self, session: int, model: str = "fake", **more: object) -> None:
        opening = fake_opening(model=model, **more)
        self.worker.apply(OpenSession(session=session, opening=opening))

    def latent(self, session: int, slot: int, value: float | bytes | None) -> None:
        """None: a blank."""
        raw = value if isinstance(value, bytes) else b"" if value is None else struct.pack("<f", value)
        with self.inlet.payload(slot) as payload:
            payload[: len(raw)] = raw
        self.worker.apply(LatentReady(session=session, slot=slot, generation=1, blank=value is None))

    def end(self, session: int) -> None:
        self.worker.apply(EndOfLatents(session=session))

    def run(self) -> None:
        while (job := self.worker.next_job(wait=False)) is not None:
            assert not isinstance(job, BatchJob), "nothing is searched"
            flight = self.worker.run(job)
            if flight is not None:
                self.worker.complete(flight)
                self.worker.publish(flight)

    @property
    def published(self) -> list[Published]:
        return [message for message in self.sent if isinstance(message, Published)]

    @property
    def failed(self) -> list[SessionFailed]:
        return [message for message in self.sent if isinstance(message, SessionFailed)]

    def levels(self) -> list[int]:
        """Grey level of each frame that was published, of four pixels each."""
        found = []
        for message in self.published:
            with self.ring.payload(message.slot) as payload:
                found += [payload[12 * index] for index in range(len(message.crc32c))]
        return found
