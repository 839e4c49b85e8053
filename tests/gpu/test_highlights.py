"""Films' frames on a GPU, beside streams: the same likeness as on the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from framehaul_pipeline.device.devices import open_device
from framehaul_pipeline.embedding import efficientnet_lite
from framehaul_pipeline.embedding.clip import ClipEmbedder
from framehaul_pipeline.embedding.efficientnet_lite import EfficientNetLite
from framehaul_pipeline.embedding.embedder import Embedder
from framehaul_pipeline.link.messages import Embedded, EmbedFrames, OpenQuery, SamplesReturned, ToServer
from framehaul_pipeline.models.embedding import EmbeddingModel, clip_model
from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.worker.highlights import Highlights
from tests.support.clip_folders import write_clip
from tests.support.networks import random_weights

pytestmark = pytest.mark.needs_cuda


def likeness(device: str, model: EmbeddingModel, text: str = "") -> tuple[tuple[float, ...], ...]:
    """Of 32 frames to two pictures, and to a text; what every step sends is checked on the way."""
    opened = open_device(device)
    embedder = ClipEmbedder if model.clip else Embedder
    ring = Ring.create("samples", num_slots=2, slot_bytes=32 * 224 * 224 * 3)
    random = np.random.default_rng(0)
    sent: list[ToServer] = []
    highlights = Highlights(opened, ring, embedder(model, opened.torch_device), send=sent.append)
    highlights.warm_up()
    try:
        for slot in range(2):
            with ring.payload(slot) as payload:
                coarse = random.integers(0, 255, (32, 14, 14, 3), np.uint8)
                smooth = np.kron(coarse, np.ones((1, 16, 16, 1), np.uint8))
                payload[: smooth.nbytes] = smooth.reshape(-1).data
        highlights.apply(OpenQuery(query=1, slot=0, generation=1, sizes=(64, 224), num_pictures=2, text=text))
        highlights.apply(EmbedFrames(query=1, slot=1, generation=1, num_frames=32))
        for _ in range(2):
            job = highlights.take(chunks_first=False)
            assert job is not None
            flight = highlights.launch(job)
            assert flight is not None
            highlights.complete(flight)
            highlights.finish(job.batch)
    finally:
        highlights.close()
        ring.close()
    embedded = [message for message in sent if isinstance(message, Embedded)]
    assert len([message for message in sent if isinstance(message, SamplesReturned)]) == 2
    print(f"{device}: {embedded[0].device_ns / 1e6:.2f} ms for 32 frames")  # noqa: T201
    return embedded[0].similarities


def test_frames_are_as_alike_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """In half precision, to two decimals of a cosine."""
    monkeypatch.setattr(efficientnet_lite, "load", lambda path: EfficientNetLite(random_weights()))
    model = EmbeddingModel(name="random", path="", side=224, picture_sizes=(64, 224))
    with torch.inference_mode():
        on_cpu, on_gpu = likeness("cpu", model), likeness("cuda", model)
        likeness("cuda", model)
    np.testing.assert_allclose(on_gpu, on_cpu, atol=0.02)


def test_clip_finds_frames_as_alike_as_on_the_cpu(tmp_path: Path) -> None:
    """A ViT-B/16, in half precision and as a graph, to 0.005 of a cosine: to pictures and to a text."""
    vision = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16}
    model = clip_model(write_clip(tmp_path, vision=vision))
    on_cpu, on_gpu = likeness("cpu", model, "red ring"), likeness("cuda", model, "red ring")
    likeness("cuda", model, "red ring")
    np.testing.assert_allclose(on_gpu, on_cpu, atol=0.005)
