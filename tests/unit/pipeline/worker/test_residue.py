"""What one tenant left in slots and staging memory reaches no other: nothing is scrubbed, because nothing is read.

A worker writes whole what it publishes, and the server reads what was published and nothing beyond. So frames don't
depend on what lay there before, which this shows by laying something there.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from framehaul.formats import LatentDtype, PixelFormat
from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.device.devices import CpuDevice
from framehaul_pipeline.models.model import TINY
from framehaul_pipeline.spec import Geometry
from tests.support.worker_bench import Bench

RESIDUE = 0xA5
LARGE, SMALL = 6, 3  # latents of so many by so many
SLOT_BYTES = 4 * 6 * (8 * LARGE) ** 2  # half floats
LATENT_BYTES = 16 * LARGE * LARGE * 4


class TinyBench(Bench):
    """A worker with the built-in model, and rings for the larger size."""

    def __init__(self) -> None:
        tiny = load_decoder(TINY, CpuDevice().torch_device)
        super().__init__(slot_bytes=SLOT_BYTES, latent_bytes=LATENT_BYTES, tiny=tiny)

    def decode(self, session: int, size: int, pixel_format: PixelFormat, dtype: LatentDtype) -> list[bytes]:
        """Decode one latent; gives each slot that was published, whole."""
        geometry = Geometry(channels=16, height=size, width=size)
        self.open(session, "tiny", geometry=geometry, dtype=dtype, pixel_format=pixel_format, tenant=str(session))
        values = np.random.default_rng(size).standard_normal((16, size, size))
        self.latent(session, 0, values.astype("<f2" if dtype is LatentDtype.FLOAT16 else "<f4").tobytes())
        self.end(session)
        self.run()
        slots = []
        for published in self.published:
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


@pytest.fixture
def benches() -> Iterator[tuple[TinyBench, TinyBench]]:
    with TinyBench() as clean, TinyBench() as soiled:
        yield clean, soiled


@pytest.mark.parametrize("dtype", [LatentDtype.FLOAT16, LatentDtype.FLOAT32])
@pytest.mark.parametrize("pixel_format", [*PixelFormat])
def test_frames_do_not_depend_on_what_lay_in_memory_before(
    benches: tuple[TinyBench, TinyBench], pixel_format: PixelFormat, dtype: LatentDtype
) -> None:
    """Equal in every byte in a worker that has never run and in one full of somebody else's bytes."""
    clean, soiled = benches
    soiled.decode(1, LARGE, PixelFormat.RGB24, LatentDtype.FLOAT32)
    soiled.sent.clear()
    soiled.soil()
    frames = clean.decode(2, SMALL, pixel_format, dtype)
    assert frames
    assert soiled.decode(2, SMALL, pixel_format, dtype) == frames
