"""Films' batches in the worker, on the CPU device, one call at a time."""

from types import SimpleNamespace
from typing import Any

import torch

from framehaul_pipeline.device.devices import CpuDevice
from framehaul_pipeline.link.messages import Alive, OpenQuery, Probe, ToServer
from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.scheduling.memory import MemoryLimits
from framehaul_pipeline.worker.highlights import BatchJob, Highlights
from framehaul_pipeline.worker.worker import Worker
from tests.support.fake_decoder import FakeDecoder


def test_a_batch_on_the_device_is_told_to_who_asks() -> None:
    """So that one that hangs is noticed, as a chunk is; and no longer than until it is done."""
    network: Any = SimpleNamespace(model=SimpleNamespace(side=8), picture=lambda picture: torch.ones(4))
    sent: list[ToServer] = []
    ring, inlet, samples = (Ring.create("framehaul-test", num_slots=2, slot_bytes=192) for _ in range(3))
    device = CpuDevice()
    worker = Worker(
        device,
        ring,
        inlet,
        {"fake": FakeDecoder()},
        chunk_latents=2,
        limits=MemoryLimits(),
        send=sent.append,
        highlights=Highlights(device, samples, network, send=sent.append),
    )
    worker.apply(OpenQuery(query=5, slot=0, generation=1, sizes=(8,), num_pictures=1))
    job = worker.next_job(wait=False)
    assert isinstance(job, BatchJob)
    worker.apply(Probe())
    flight = worker.run_batch(job)
    assert flight is not None
    worker.apply(Probe())
    worker.complete_batch(flight)
    worker.apply(Probe())
    worker.stop()
    worker.drain()
    for each in (ring, inlet, samples):
        each.close()
    told = [message.oldest for message in sent if isinstance(message, Alive)]
    assert [oldest and (oldest.session, oldest.num_samples) for oldest in told] == [(5, 1), (5, 1), None]
