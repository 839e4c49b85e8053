"""The real server with a Wan VAE from disk beside the built-in model, held against diffusers."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from framehaul.v1 import frames_pb2 as pb
from framehaul_client import FrameClient
from tests.support.clips import Clip, collect, decode, make_clip
from tests.support.server_process import ServerProcess, running_server
from tests.support.waiting import wait_until
from tests.support.wan_models import WAN_2_1, wan

NUM_LATENTS = 5
NUM_FRAMES = 4 * NUM_LATENTS - 3


@pytest.fixture(scope="module")
def vae() -> Any:
    return wan(WAN_2_1, seed=3)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, vae: Any) -> Iterator[ServerProcess]:
    """Serves the folder of a pipeline, and `tiny`."""
    folder = tmp_path_factory.mktemp("pipeline")
    vae.save_pretrained(folder / "vae")
    (folder / "model_index.json").write_text("{}")
    options = ("--model", f"wan={folder}", "--model", "tiny", "--warm-up", "64x64,128x64")
    with running_server(folder / "log", *options) as running:
        yield running


def decoded_by_diffusers(vae: Any, given: Clip, *, normalized: bool) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Frames `[F, 64, 64, 3]` of latents, in levels."""
    values = torch.from_numpy(given).float()
    if normalized:
        mean, std = (torch.tensor(vae.config[name]).view(-1, 1, 1) for name in ("latents_mean", "latents_std"))
        values = values * std + mean
    frames = vae.decode(values.transpose(0, 1)[None]).sample[0].permute(1, 2, 3, 0)
    return torch.floor(frames.clamp(-1, 1) * 127.5 + 128).clamp(0, 255).byte().numpy()


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.asyncio
async def test_frames_are_those_of_diffusers(server: ServerProcess, vae: Any, normalized: bool) -> None:
    """To one level; normalised latents with the model's own mean and deviation undone."""
    given = make_clip(NUM_LATENTS, seed=1)
    expected = decoded_by_diffusers(vae, given, normalized=normalized)
    frames = await decode(server.target, given, model="wan", normalized=normalized)
    assert frames.shape == expected.shape == (NUM_FRAMES, 64, 64, 3)
    assert np.abs(frames.astype(int) - expected).max() <= 1
    assert expected.std() > 10


@pytest.mark.asyncio
async def test_both_models_serve_at_once(server: ServerProcess) -> None:
    """Sessions of either give what they give alone; the first named is the default."""
    given = make_clip(NUM_LATENTS, seed=2)
    alone = {model: await decode(server.target, given, model=model) for model in ("wan", "tiny")}
    assert {model: len(frames) for model, frames in alone.items()} == {"wan": NUM_FRAMES, "tiny": 4 * NUM_LATENTS}
    together = ["wan", "tiny", "", "tiny"]
    async with FrameClient(server.target) as client:
        found = await asyncio.gather(*(collect(client, given, model=model) for model in together))
    for model, frames in zip(together, found, strict=True):
        assert frames.shape == alone[model or "wan"].shape
        assert np.abs(frames.astype(int) - alone[model or "wan"]).max() <= 1


def test_both_models_are_described_and_warm(server: ServerProcess, vae: Any) -> None:
    with server.stub() as stub:
        info = stub.GetServerInfo(pb.GetServerInfoRequest())
    wan_info, tiny = info.models
    assert (wan_info.name, tiny.name) == ("wan", "tiny")
    assert (wan_info.channels, wan_info.first_frames, wan_info.temporal_factor) == (vae.config["z_dim"], 1, 4)
    assert (wan_info.normalization, tiny.normalization) == (True, False)
    assert len(await_warm(server, num_workers=1)) == 4


def await_warm(server: ServerProcess, num_workers: int) -> list[str]:
    """What so many workers, once they are ready, have said of their warm-up: models and sizes."""
    wait_until(lambda: server.log.count("worker ready") == num_workers, "a ready worker")
    return re.findall(r"warm-up (model=(?:wan|tiny) size=(?:64x64|128x64)) chunks=1,4,3,2,1 ", server.log)


@pytest.mark.asyncio
async def test_a_restarted_worker_is_as_warm_as_the_first(server: ServerProcess) -> None:
    """Each decodes the named sizes before it is ready, and then serves."""
    first = await_warm(server, num_workers=1)
    assert len(set(first)) == 4
    server.worker().kill()
    assert await_warm(server, num_workers=2) == 2 * first
    assert len(await decode(server.target, make_clip(1), model="wan")) == 1
