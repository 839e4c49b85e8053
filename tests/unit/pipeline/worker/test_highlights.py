"""Films between chunks of streams, in this process: what is told of queries and of batches at work."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from framehaul_pipeline.device.devices import CpuDevice
from framehaul_pipeline.embedding.clip import ClipEmbedder
from framehaul_pipeline.link.messages import (
    Alive,
    Embedded,
    EmbedFrames,
    OpenQuery,
    Probe,
    QueryRefused,
    SamplesReturned,
    ToServer,
)
from framehaul_pipeline.models.embedding import clip_model
from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.scheduling.memory import MemoryLimits
from framehaul_pipeline.worker.highlights import BatchJob, Highlights
from framehaul_pipeline.worker.worker import Worker
from tests.support.clip_folders import write_clip
from tests.support.fake_decoder import FakeDecoder


def test_frames_behind_a_query_that_is_refused_are_let_go(tmp_path: Path) -> None:
    """They may come before the server knows; the next query isn't touched by it."""
    device, sent = CpuDevice(), list[ToServer]()
    rings = [Ring.create(f"framehaul-{name}", num_slots=4, slot_bytes=38 * 38 * 3) for name in ("out", "in", "samples")]
    embedder = ClipEmbedder(clip_model(write_clip(tmp_path)), device.torch_device)
    highlights = Highlights(device, rings[2], embedder, send=sent.append)
    worker = Worker(
        device,
        rings[0],
        rings[1],
        {"fake": FakeDecoder()},
        chunk_latents=1,
        limits=MemoryLimits(),
        send=sent.append,
        highlights=highlights,
    )
    try:
        for query, text in ((1, "red " * 9), (2, "red ring")):
            slot = 2 * query - 2
            worker.apply(OpenQuery(query=query, slot=slot, generation=1, sizes=(38,), num_pictures=0, text=text))
            worker.apply(EmbedFrames(query=query, slot=slot + 1, generation=1, num_frames=1))
        while (job := worker.next_job(wait=False)) is not None:
            assert isinstance(job, BatchJob)
            flight = worker.run_batch(job)
            if flight is not None:
                worker.complete_batch(flight)
    finally:
        worker.stop()
        worker.drain()
        for ring in rings:
            ring.close()
    told = [message for message in sent if isinstance(message, QueryRefused | Embedded | SamplesReturned)]
    assert [(type(each).__name__, each.slot if isinstance(each, SamplesReturned) else each.query) for each in told] == [
        ("QueryRefused", 1),
        ("SamplesReturned", 1),
        ("SamplesReturned", 0),
        ("SamplesReturned", 2),
        ("Embedded", 2),
        ("SamplesReturned", 3),
    ]


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
