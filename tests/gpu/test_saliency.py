"""TASED-Net on a GPU: folded, with pools of our own and as a graph, it gives the published network's maps."""

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from framehaul.formats import PixelFormat
from framehaul_pipeline.device.devices import open_device
from framehaul_pipeline.embedding import efficientnet_lite
from framehaul_pipeline.embedding.efficientnet_lite import EfficientNetLite
from framehaul_pipeline.embedding.embedder import Embedder
from framehaul_pipeline.link.messages import MapFrames, Mapped, SamplesReturned, ToServer
from framehaul_pipeline.models.embedding import EmbeddingModel
from framehaul_pipeline.models.saliency import FRAME_BYTES, MOST_FRAMES, MOST_WINDOWS, WINDOW_FRAMES, SaliencyModel
from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.saliency.folded import FoldedTased
from framehaul_pipeline.saliency.mapper import Mapper
from framehaul_pipeline.saliency.network import Published
from framehaul_pipeline.worker.highlights import Highlights
from tests.support.networks import random_tased, random_weights

pytestmark = pytest.mark.needs_cuda

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def frames(count: int) -> Tensor:
    """What moves, and is alike to what is next to it."""
    coarse = torch.randint(0, 256, (1, 3, 8, 7, 12), generator=torch.Generator().manual_seed(1)).float()
    smooth = torch.nn.functional.interpolate(coarse, (count, 224, 384), mode="trilinear")
    return smooth[0].permute(1, 2, 3, 0).to(torch.uint8).contiguous()


@torch.inference_mode()
def test_in_float32_it_gives_what_the_published_network_does() -> None:
    """On the CPU, where unpooling isn't left to chance, and as near to it as it is to itself with more digits.

    A graph gives what single kernels do, bit for bit.
    """
    windows = frames(WINDOW_FRAMES)[None]
    exact = Published(random_tased(), CPU, torch.float64)(windows)
    published = Published(random_tased(), CPU, torch.float32)(windows).double()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        folded = FoldedTased(random_tased(), CUDA, torch.float32)
        maps = folded(windows.to(CUDA)).clone()
        assert torch.equal(maps, folded._maps([windows.to(CUDA)])[0])
        assert torch.equal(maps, folded(windows.to(CUDA)))
    errors = [float((each.cpu() - exact).abs().max()) for each in (published, maps)]
    print(f"from float64: published {errors[0]:.1e}, folded {errors[1]:.1e}")  # noqa: T201
    assert exact.std() > 0.01
    assert errors[1] < 3 * errors[0] + 1e-4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SaliencyModel:
    path = tmp_path_factory.mktemp("weights") / "tased.safetensors"
    save_file(dict(random_tased().state_dict()), path)
    return SaliencyModel(path=str(path))


def test_half_precision_shows_the_same_places(model: SaliencyModel) -> None:
    """Of windows one after the other, in one batch or alone, forwards and backwards, as on the CPU."""
    some = frames(MOST_FRAMES)
    on_cpu, on_gpu = Mapper(model, CPU), Mapper(model, CUDA)
    on_gpu.warm_up(some.to(CUDA))
    assert isinstance(on_gpu._maps, FoldedTased)
    for every, backwards in ((1, False), (7, True)):
        maps = on_gpu.maps(some.to(CUDA), every=every, backwards=backwards).cpu()
        assert len(maps) == (MOST_WINDOWS if every == 1 else 2)
        last = on_cpu.maps(some[-WINDOW_FRAMES:], every=1, backwards=backwards)[0]
        print(f"every {every}: {(maps[-1] - last).abs().max():.4f} of {last.std():.4f}")  # noqa: T201
        assert (maps[-1] - last).abs().max() < 0.1
        assert torch.corrcoef(torch.stack([maps[-1].flatten(), last.flatten()]))[0, 1] > 0.95


def mapped(device: str, model: SaliencyModel) -> list[np.ndarray[Any, Any]]:
    """A run's maps as pictures, as a worker makes them: out of a slot, and into it."""
    opened = open_device(device)
    ring = Ring.create("samples", num_slots=1, slot_bytes=MOST_FRAMES * FRAME_BYTES)
    sent: list[ToServer] = []
    embedding = EmbeddingModel(name="random", path="", side=224, picture_sizes=(64,))
    highlights = Highlights(
        opened, ring, Embedder(embedding, opened.torch_device), Mapper(model, opened.torch_device), send=sent.append
    )
    found = []
    try:
        highlights.warm_up()
        for count in (1, MOST_WINDOWS) if device == "cuda" else (1,):
            some = frames(MOST_FRAMES)[-WINDOW_FRAMES + 1 - count :].numpy()
            with ring.payload(0) as payload:
                payload[: some.nbytes] = some.reshape(-1).data
            message = MapFrames(
                query=1,
                slot=0,
                generation=1,
                num_frames=len(some),
                every=1,
                backwards=False,
                width=384,
                height=216,
                pixel_format=PixelFormat.YUV420P,
            )
            highlights.apply(message)
            job = highlights.take(chunks_first=False)
            assert job is not None
            flight = highlights.launch(job)
            assert flight is not None
            highlights.complete(flight)
            highlights.finish(job.batch)
            told, returned = sent[-2:]
            assert isinstance(told, Mapped)
            assert isinstance(returned, SamplesReturned)
            print(f"{device}: {told.device_ns / 1e6:.2f} ms for {count} maps")  # noqa: T201
            with ring.payload(0) as payload:
                pictures = np.frombuffer(payload[: told.num_bytes], np.uint8).reshape(count, 324, 384).copy()
            found.append(pictures[-1])
    finally:
        highlights.close()
        ring.close()
    return found


def test_a_worker_maps_what_lies_in_a_slot(model: SaliencyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures are the CPU's, to a few levels."""
    monkeypatch.setattr(efficientnet_lite, "load", lambda path: EfficientNetLite(random_weights()))
    with torch.inference_mode():
        (on_cpu,), on_gpu = mapped("cpu", model), mapped("cuda", model)
    assert on_cpu[:216].std() > 5
    for each in on_gpu:
        differences = np.abs(each.astype(int) - on_cpu)
        print(f"levels: {differences.max()} at most, {differences.mean():.2f} on average")  # noqa: T201
        assert differences.max() < 30
        assert differences[216:].max() == 0
