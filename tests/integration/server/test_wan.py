"""The real server with a Wan VAE from disk beside the built-in model, held against diffusers."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from tests.support.server_process import (
    CHANNELS,
    SIZE,
    Client,
    ServerProcess,
    latents,
    opening,
    running_server,
    stream,
)
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
    options = ("--model", f"wan={folder}", "--model", "tiny", "--warm-up", "64x64")
    with running_server(folder / "log", *options) as running:
        yield running


def decoded_by_diffusers(vae: Any, given: bytes, *, normalized: bool) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Frames `[F, 64, 64, 3]` of float16 latents, in levels."""
    values = torch.frombuffer(bytearray(given), dtype=torch.float16).float().view(-1, CHANNELS, SIZE, SIZE)
    if normalized:
        mean, std = (torch.tensor(vae.config[name]).view(-1, 1, 1) for name in ("latents_mean", "latents_std"))
        values = values * std + mean
    frames = vae.decode(values.transpose(0, 1)[None]).sample[0].permute(1, 2, 3, 0)
    return torch.floor(frames.clamp(-1, 1) * 127.5 + 128).clamp(0, 255).byte().numpy()


def decode(server: ServerProcess, given: bytes, **changes: object) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The server's frames."""
    request = wire.join(pb.StreamRequest(open=opening(**changes), end_of_latents=True), (given,))
    with server.channel() as channel:
        payload = b"".join(wire.split_response(response).payload for response in stream(channel, [request]))
    return np.frombuffer(payload, np.uint8).reshape(-1, 8 * SIZE, 8 * SIZE, 3)


@pytest.mark.parametrize("normalized", [False, True])
def test_frames_are_those_of_diffusers(server: ServerProcess, vae: Any, normalized: bool) -> None:
    """To one level; normalised latents with the model's own mean and deviation undone."""
    given = latents(NUM_LATENTS, seed=1)
    expected = decoded_by_diffusers(vae, given, normalized=normalized)
    frames = decode(server, given, model="wan", normalized=normalized)
    assert frames.shape == expected.shape == (NUM_FRAMES, 64, 64, 3)
    assert np.abs(frames.astype(int) - expected).max() <= 1
    assert expected.std() > 10


def test_both_models_serve_at_once(server: ServerProcess) -> None:
    """Sessions of either give what they give alone; the first named is the default."""
    given = latents(NUM_LATENTS, seed=2)
    alone = {model: decode(server, given, model=model) for model in ("wan", "tiny")}
    assert {model: len(frames) for model, frames in alone.items()} == {"wan": NUM_FRAMES, "tiny": 4 * NUM_LATENTS}
    together = ["wan", "tiny", "", "tiny"]
    at_once = threading.Barrier(len(together))

    def run(model: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        at_once.wait(30)
        return decode(server, given, model=model)

    with ThreadPoolExecutor(len(together)) as pool:
        for model, frames in zip(together, pool.map(run, together), strict=True):
            assert frames.shape == alone[model or "wan"].shape
            assert np.abs(frames.astype(int) - alone[model or "wan"]).max() <= 1


def test_both_models_are_described_and_warm(server: ServerProcess, vae: Any) -> None:
    with server.stub() as stub:
        info = stub.GetServerInfo(pb.GetServerInfoRequest())
    wan_info, tiny = info.models
    assert (wan_info.name, tiny.name) == ("wan", "tiny")
    assert (wan_info.channels, wan_info.first_frames, wan_info.temporal_factor) == (vae.config["z_dim"], 1, 4)
    assert (wan_info.normalization, tiny.normalization) == (True, False)
    assert "warm-up model=wan size=64x64 chunks=1,1,2,3,4 " in server.log
    assert "warm-up model=tiny size=64x64 chunks=1,1,2,3,4 " in server.log
    with server.channel() as channel, Client(channel) as client:
        client.send(latents(1), open=opening(model="wan"), end_of_latents=True)
        assert len(client.read_to_end()) == 1
