"""TASED-Net on a GPU: folded, with pools of our own and as a graph, it gives the published network's maps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from framehaul.formats import PixelFormat
from framehaul_pipeline.device.devices import open_device
from framehaul_pipeline.link.messages import MapFrames, Mapped, SamplesReturned, ToServer
from framehaul_pipeline.models.saliency import MOST_FRAMES, MOST_WINDOWS, WINDOW_FRAMES, SaliencyModel
from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.saliency.folded import FoldedTased
from framehaul_pipeline.saliency.mapper import Mapper
from framehaul_pipeline.saliency.network import Published
from framehaul_pipeline.worker.highlights import Highlights
from tests.support.networks import light_seeking_tased, random_tased

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
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
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


def moving(count: int) -> np.ndarray[Any, Any]:
    """A white square on black, which float16 has without rounding."""
    found = np.zeros((count, 224, 384, 3), np.uint8)
    for index, frame in enumerate(found):
        frame[20 + 4 * index :][:30, 8 * index :][:, :30] = 255
    return found


def mapped(device: str, weights: Path, count: int) -> np.ndarray[Any, Any]:
    """The last map of a run as a picture, as a worker makes them: out of a slot, and into it."""
    opened, model = open_device(device), SaliencyModel(path=str(weights))
    ring = Ring.create("samples", num_slots=1, slot_bytes=MOST_FRAMES * model.frame_bytes)
    sent: list[ToServer] = []
    mapper = Mapper(model, opened.torch_device)
    highlights = Highlights(opened, ring, None, mapper, send=sent.append)
    frames = moving(MOST_FRAMES)[-WINDOW_FRAMES + 1 - count :]
    message = MapFrames(
        query=1,
        slot=0,
        generation=1,
        num_frames=len(frames),
        every=1,
        backwards=False,
        width=384,
        height=216,
        pixel_format=PixelFormat.YUV420P,
    )
    try:
        highlights.warm_up()
        with ring.payload(0) as payload:
            payload[: frames.nbytes] = frames.reshape(-1).data
        highlights.apply(message)
        job = highlights.take(chunks_first=False)
        assert job is not None
        flight = highlights.launch(job)
        assert flight is not None
        highlights.complete(flight)
        highlights.finish(job.batch)
        told, returned = sent
        assert isinstance(told, Mapped)
        assert isinstance(returned, SamplesReturned)
        print(f"{device}: {told.device_ns / 1e6:.2f} ms for {count} maps")  # noqa: T201
        with ring.payload(0) as payload:
            pictures = np.array(payload[: told.num_bytes], np.uint8)
        last: np.ndarray[Any, Any] = pictures.reshape(count, 324, 384)[-1]
        return last
    finally:
        highlights.close()
        ring.close()


@pytest.mark.parametrize("count", [1, MOST_WINDOWS])
def test_a_worker_maps_what_lies_in_a_slot(count: int, tmp_path: Path) -> None:
    """The pictures are the CPU's, to a few levels; these weights look at what is light, and round nothing."""
    save_file(light_seeking_tased(), tmp_path / "tased.safetensors")
    on_cpu, on_gpu = (
        mapped(device, tmp_path / "tased.safetensors", count if device == "cuda" else 1) for device in ("cpu", "cuda")
    )
    assert on_cpu[:216].std() > 5
    differences = np.abs(on_gpu.astype(int) - on_cpu)
    print(f"levels: {differences.max()} at most, {differences.mean():.2f} on average")  # noqa: T201
    assert differences.max() <= 3
