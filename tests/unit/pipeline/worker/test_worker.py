"""The worker on the CPU device, one call at a time: what happens when a session's work fails."""

import struct
from collections.abc import Iterator

import msgspec
import pytest
import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import Decoder, State
from framehaul_pipeline.device.devices import CpuDevice
from framehaul_pipeline.link.messages import (
    DeviceTime,
    EndOfLatents,
    InletReturned,
    LatentReady,
    OpenSession,
    Published,
    SessionEnded,
    SessionFailed,
    SessionOpened,
    SlotReturned,
    ToServer,
)
from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.scheduling.memory import MemoryLimits
from framehaul_pipeline.spec import Geometry, LatentDtype, PixelFormat
from framehaul_pipeline.worker.jobs import ChunkJob
from framehaul_pipeline.worker.worker import Worker
from tests.support.fake_decoder import FAKE_SPEC, FakeDecoder, expected_levels

NO_LIMITS = MemoryLimits()


class FullDecoder(FakeDecoder):
    """Has no room for a state."""

    def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
        raise torch.OutOfMemoryError("no room")


class LateDecoder(FakeDecoder):
    """Gives a latent's frames when the next latent is there."""

    spec = msgspec.structs.replace(FAKE_SPEC, name="late", lookahead_latents=1)

    def step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        frames, new = super().step(latents, state[:1])
        held = torch.cat([*state[1:], frames])
        num_out = len(held) - (1 if new[0][1] == 1 else 2)
        return held[:num_out], [*new, held[num_out:]]

    def flush(self, state: State) -> Tensor | None:
        return state[1]


class BrokenDevice(CpuDevice):
    """Doesn't answer after an error."""

    def healthy(self) -> bool:
        return False


class Bench:
    """A worker with its rings, its messages caught in a list."""

    def __init__(self, device: CpuDevice, limits: MemoryLimits = NO_LIMITS, **more: Decoder) -> None:
        self.ring = Ring.create("framehaul-worker", num_slots=3, slot_bytes=48)
        self.inlet = Ring.create("framehaul-worker-inlet", num_slots=4, slot_bytes=4)
        self.sent: list[ToServer] = []
        decoders: dict[str, Decoder] = {"fake": FakeDecoder(), "full": FullDecoder(), "late": LateDecoder(), **more}
        self.worker = Worker(
            device, self.ring, self.inlet, decoders, chunk_latents=2, limits=limits, send=self.sent.append
        )

    def open(self, session: int, model: str = "fake", *, alone_until: int | None = None) -> None:
        self.worker.apply(
            OpenSession(
                session=session,
                model=model,
                channels=1,
                latent_height=1,
                latent_width=1,
                num_latents=None,
                dtype=LatentDtype.FLOAT32,
                normalized=False,
                pixel_format=PixelFormat.RGB24,
                priority=0,
                alone_until=alone_until,
            )
        )

    def latent(self, session: int, slot: int, value: float) -> None:
        with self.inlet.payload(slot) as payload:
            payload[:4] = struct.pack("<f", value)
        self.worker.apply(LatentReady(session=session, slot=slot, generation=1))

    def run(self) -> None:
        while (job := self.worker.next_job(wait=False)) is not None:
            flight = self.worker.run(job)
            if flight is not None:
                self.worker.complete(flight)
                self.worker.publish(flight)

    def close(self) -> None:
        self.worker.stop()
        self.worker.drain()
        self.ring.close()
        self.inlet.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(CpuDevice())
    yield bench
    bench.close()


def test_a_session_from_open_to_end(bench: Bench) -> None:
    """Opened, latents back, frames published, ended, in this order."""
    bench.open(1)
    bench.latent(1, 0, 9)
    bench.latent(1, 1, 5)
    bench.worker.apply(EndOfLatents(session=1))
    bench.run()
    assert [type(message) for message in bench.sent] == [
        SessionOpened,
        DeviceTime,
        InletReturned,
        Published,
        DeviceTime,
        InletReturned,
        Published,
        SessionEnded,
    ]
    published = [message for message in bench.sent if isinstance(message, Published)]
    levels = []
    for message in published:
        with bench.ring.payload(message.slot) as payload:
            levels += [payload[12 * index] for index in range(len(message.crc32c))]
    assert levels == expected_levels([9, 5])
    assert bench.sent[-1] == SessionEnded(session=1, num_frames=3)


def test_latents_that_give_no_frame_yet_are_decoded_all_the_same(bench: Bench) -> None:
    """A chunk without frames publishes nothing and changes the state; what was held back comes at the end."""
    bench.open(1, model="late")
    for slot, value in enumerate([9, 5, 2]):
        bench.latent(1, slot, value)
        bench.run()
    bench.worker.apply(EndOfLatents(session=1))
    bench.run()
    published = [message for message in bench.sent if isinstance(message, Published)]
    assert [len(message.crc32c) for message in published] == [1, 2, 2]
    levels = []
    for message in published:
        with bench.ring.payload(message.slot) as payload:
            levels += [payload[12 * index] for index in range(len(message.crc32c))]
    assert levels == expected_levels([9, 5, 2])
    assert bench.sent[-1] == SessionEnded(session=1, num_frames=5)


def test_a_decoder_that_fails_ends_its_session_alone(bench: Bench) -> None:
    """Its slots come back, the reason hides the exception's text, and the next session works."""
    bench.open(1)
    bench.latent(1, 0, -1)
    bench.latent(1, 1, 3)
    bench.run()
    assert bench.sent == [
        SessionOpened(session=1),
        InletReturned(slot=0, generation=1),
        InletReturned(slot=1, generation=1),
        SessionFailed(session=1, reason="the decoder failed on this session's latents", overloaded=False),
    ]
    bench.sent.clear()
    bench.open(2)
    bench.latent(2, 2, 7)
    bench.worker.apply(EndOfLatents(session=2))
    bench.run()
    assert bench.sent[-1] == SessionEnded(session=2, num_frames=1)


def test_a_session_without_room_on_the_device_is_overloaded(bench: Bench) -> None:
    """And latents that come for it afterwards go straight back."""
    bench.open(1, model="full")
    bench.run()
    bench.latent(1, 0, 1)
    assert bench.sent == [
        SessionFailed(
            session=1,
            reason="device memory is full: a session of this size needs 0.02 GiB for its state and 0.00 GiB to decode",
            overloaded=True,
        ),
        InletReturned(slot=0, generation=1),
    ]


def test_a_device_that_is_lost_ends_the_worker() -> None:
    """The error leaves `run`, so that the process ends and a new one takes over."""
    bench = Bench(BrokenDevice())
    bench.open(1)
    bench.latent(1, 0, -1)
    with pytest.raises(RuntimeError, match="negative"):
        bench.run()
    bench.close()


def test_whose_work_it_is_stands_in_the_ring_until_the_slot_is_free(bench: Bench) -> None:
    """From the launch until the worker knows that the server took the frames; sessions that only wait aren't there."""
    bench.open(1)
    bench.open(2)
    bench.latent(1, 0, 9)
    bench.latent(2, 1, 5)
    assert bench.ring.noted() == frozenset()
    while not isinstance(job := bench.worker.next_job(wait=False), ChunkJob):
        assert job is not None
        bench.worker.run(job)
    flight = bench.worker.run(job)
    assert bench.ring.noted() == {1}
    assert flight is not None
    bench.worker.complete(flight)
    assert bench.ring.noted() == {1}
    bench.worker.publish(flight)
    assert bench.ring.noted() == {1}
    bench.worker.apply(SlotReturned(slot=flight.slot, generation=flight.generation))
    assert bench.ring.noted() == frozenset()
    bench.run()
    assert bench.ring.noted() == {2}


def test_chunks_without_frames_and_those_that_failed_leave_no_note(bench: Bench) -> None:
    bench.open(1, model="late")
    bench.latent(1, 0, 9)
    bench.open(2, model="full")
    bench.latent(2, 1, 9)
    bench.run()
    assert bench.ring.noted() == frozenset()


def test_what_a_thread_is_at_stands_in_the_ring_and_stays_when_it_ends_the_worker() -> None:
    """An opening, and the message that asks for it."""
    seen: list[frozenset[int]] = []

    class Watched(FakeDecoder):
        spec = msgspec.structs.replace(FAKE_SPEC, name="watched")

        def open(self, geometry: Geometry, num_latents: int | None, *, first_latent: int = 0) -> State:
            seen.append(own.ring.noted())
            return super().open(geometry, num_latents, first_latent=first_latent)

    own = Bench(CpuDevice(), watched=Watched())
    own.open(5, model="watched")
    own.run()
    assert seen == [{5}]
    assert own.ring.noted() == frozenset()
    with pytest.raises(KeyError):
        own.open(6, model="none of ours")
    assert own.ring.noted() == {6}
    own.close()
