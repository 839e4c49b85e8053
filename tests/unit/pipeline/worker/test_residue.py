"""What one tenant left in slots and staging memory reaches no other: nothing is scrubbed, because nothing is read.

A worker writes whole what it publishes, and the server reads what was published and nothing beyond. So frames don't
depend on what lay there before, which this shows by laying something there.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.device.devices import CpuDevice
from framehaul_pipeline.link.messages import EndOfLatents, LatentReady, OpenSession, Published, ToServer
from framehaul_pipeline.models.model import TINY
from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.scheduling.memory import MemoryLimits
from framehaul_pipeline.spec import LatentDtype, PixelFormat
from framehaul_pipeline.worker.worker import Worker

RESIDUE = 0xA5
LARGE, SMALL = 6, 3  # latents of so many by so many
SLOT_BYTES = 4 * 6 * (8 * LARGE) ** 2  # half floats
LATENT_BYTES = 16 * LARGE * LARGE * 4


class Bench:
    """A worker with the built-in model, and rings for the larger size."""

    def __init__(self) -> None:
        device = CpuDevice()
        self.ring = Ring.create("framehaul-residue", num_slots=2, slot_bytes=SLOT_BYTES)
        self.inlet = Ring.create("framehaul-residue-inlet", num_slots=4, slot_bytes=LATENT_BYTES)
        self.sent: list[ToServer] = []
        decoders = {"tiny": load_decoder(TINY, device.torch_device)}
        self.worker = Worker(
            device, self.ring, self.inlet, decoders, chunk_latents=2, limits=MemoryLimits(), send=self.sent.append
        )

    def decode(self, session: int, size: int, pixel_format: PixelFormat, dtype: LatentDtype) -> list[bytes]:
        """Decode one latent; gives each slot that was published, whole."""
        self.worker.apply(
            OpenSession(
                session=session,
                model="tiny",
                channels=16,
                latent_height=size,
                latent_width=size,
                num_latents=None,
                dtype=dtype,
                normalized=False,
                pixel_format=pixel_format,
                priority=0,
                tenant=str(session),
            )
        )
        values = np.random.default_rng(size).standard_normal((16, size, size))
        raw = values.astype("<f2" if dtype is LatentDtype.FLOAT16 else "<f4").tobytes()
        with self.inlet.payload(0) as payload:
            payload[: len(raw)] = raw
        self.worker.apply(LatentReady(session=session, slot=0, generation=session))
        self.worker.apply(EndOfLatents(session=session))
        while (job := self.worker.next_job(wait=False)) is not None:
            if (flight := self.worker.run(job)) is not None:
                self.worker.complete(flight)
                self.worker.publish(flight)
        slots = []
        for published in (message for message in self.sent if isinstance(message, Published)):
            with self.ring.payload(published.slot) as payload:
                num_bytes = len(published.crc32c) * published.frame_bytes
                slots.append(bytes(payload[:num_bytes]))
                assert set(payload[num_bytes:]) <= {0, RESIDUE}, "the worker wrote more than it published"
        return slots

    def soil(self) -> None:
        """Leave something in every byte that sessions share."""
        for ring in (self.ring, self.inlet):
            for slot in range(ring.num_slots):
                with ring.payload(slot) as payload:
                    payload[:] = bytes([RESIDUE]) * len(payload)
        for turn in self.worker._launcher._turns:
            turn.latents.fill_(RESIDUE)
            turn.frames.fill_(RESIDUE)

    def close(self) -> None:
        self.worker.stop()
        self.worker.drain()
        self.ring.close()
        self.inlet.close()


@pytest.fixture
def benches() -> Iterator[tuple[Bench, Bench]]:
    pair = Bench(), Bench()
    yield pair
    for bench in pair:
        bench.close()


@pytest.mark.parametrize("dtype", [LatentDtype.FLOAT16, LatentDtype.FLOAT32])
@pytest.mark.parametrize("pixel_format", [*PixelFormat])
def test_frames_do_not_depend_on_what_lay_in_memory_before(
    benches: tuple[Bench, Bench], pixel_format: PixelFormat, dtype: LatentDtype
) -> None:
    """Equal in every byte in a worker that has never run and in one full of somebody else's bytes."""
    clean, soiled = benches
    soiled.decode(1, LARGE, PixelFormat.RGB24, LatentDtype.FLOAT32)
    soiled.sent.clear()
    soiled.soil()
    frames = clean.decode(2, SMALL, pixel_format, dtype)
    assert frames
    assert soiled.decode(2, SMALL, pixel_format, dtype) == frames
