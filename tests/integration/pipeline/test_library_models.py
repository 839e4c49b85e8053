"""Models whose decoders are the diffusers library's, through a real server and the real client."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from crc32c import crc32c
from diffusers import (
    AutoencoderKL,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Video,
    AutoencoderKLMiniMaxH3,
)
from torch import Tensor

from framehaul.v1 import frames_pb2 as pb
from framehaul_client import FrameClient
from tests.support.call import Call
from tests.support.clips import decode, make_clip, opening
from tests.support.server_process import ServerProcess, running_server

HEIGHT, WIDTH = 4, 6  # of a latent
SCALING = {"pictures": 0.18215, "hunyuan": 0.476986, "hunyuan15": 1.03682, "h3": 0.5, "ltx": 0.5}
IMAGENET_MEAN, IMAGENET_STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
Array = np.ndarray[Any, Any]


def pictures() -> AutoencoderKL:
    torch.manual_seed(1)
    widths = (8, 8, 16)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    return AutoencoderKL(block_out_channels=widths, norm_num_groups=4, **blocks).eval()


def hunyuan() -> AutoencoderKLHunyuanVideo:
    torch.manual_seed(2)
    widths = (4, 4, 8, 8)
    return AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=widths, layers_per_block=1, norm_num_groups=2
    ).eval()


def hunyuan15() -> AutoencoderKLHunyuanVideo15:
    torch.manual_seed(5)
    return AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1).eval()


def h3() -> AutoencoderKLMiniMaxH3:
    torch.manual_seed(3)
    return AutoencoderKLMiniMaxH3(
        latent_channels=4,
        block_out_channels=(4,) * 6,
        layers_per_block=1,
        norm_num_groups=2,
        decoder_num_layers=1,
        decoder_num_attention_heads=2,
        decoder_attention_head_dim=16,
        latents_mean=[0.0] * 4,
        latents_std=[2.0] * 4,
    ).eval()


def ltx() -> AutoencoderKLLTX2Video:
    torch.manual_seed(4)
    vae = AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_block_out_channels=(8, 16, 32),
        decoder_layers_per_block=(1, 1, 1, 1),
        patch_size=1,
        decoder_causal=False,
    ).eval()
    vae.latents_std.fill_(2.0)
    return vae


@pytest.fixture(scope="module")
def vaes() -> dict[str, Any]:
    return {"pictures": pictures(), "hunyuan": hunyuan(), "hunyuan15": hunyuan15(), "h3": h3(), "ltx": ltx()}


@pytest.fixture(scope="module")
def server(vaes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server with all models."""
    folder = tmp_path_factory.mktemp("models")
    options = []
    for name, vae in vaes.items():
        vae.save_pretrained(folder / name)
        options += ["--model", f"{name}={folder / name}"]
    with running_server(folder / "server.log", *options) as running:
        yield running


def make_latents(num_latents: int) -> Array:
    return make_clip(num_latents, channels=4, height=HEIGHT, width=WIDTH).astype(np.float32)


@torch.inference_mode()
def library_frames(name: str, vae: Any, latents: Array) -> Array:
    """`[F, H, W, 3] uint8` of normalised latents, as the library's pipelines decode them."""
    z = torch.from_numpy(latents) / SCALING[name]
    video: Tensor
    if name != "pictures":
        video = vae.decode(z.transpose(0, 1)[None]).sample[0].transpose(0, 1)
    else:
        video = torch.cat([vae.decode(each[None]).sample for each in z])
    if name == "h3":
        video = 2 * (video * IMAGENET_STD.view(-1, 1, 1) + IMAGENET_MEAN.view(-1, 1, 1)) - 1
    return (video * 127.5 + 127.5).clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def stream(server: ServerProcess, latents: Any, **options: Any) -> Array:
    """In chunks of one latent: LTX's frames differ by rounding with their length."""
    return asyncio.run(
        asyncio.wait_for(decode(server.target, latents, normalized=True, reproducible=True, **options), 60)
    )


@pytest.mark.parametrize(
    ("name", "num_latents"),
    [
        *((name, count) for name in ("pictures", "hunyuan") for count in (1, 4, 5, 9)),
        ("hunyuan15", 2),
        ("h3", 13),
        ("ltx", 1),
        ("ltx", 11),
    ],
)
def test_frames_are_the_librarys(server: ServerProcess, vaes: dict[str, Any], name: str, num_latents: int) -> None:
    """Within one level of its decode turned into rgb24; however latents come and however small the window is."""
    latents = make_latents(num_latents)
    expected = library_frames(name, vaes[name], latents)
    assert expected.std() > 1, "not a blank"
    frames = stream(server, latents, model=name)
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).max() <= 1
    assert np.array_equal(stream(server, latents, model=name, window_frames=1), frames)
    assert np.array_equal(stream(server, iter(latents), model=name, window_frames=1), frames)


@pytest.mark.parametrize("name", ["pictures", "hunyuan", "h3", "ltx"])
def test_auto_sessions_get_the_same_frames(server: ServerProcess, name: str) -> None:
    """With the number of latents told at the beginning and not."""
    latents = make_latents(8)
    expected = [crc32c(frame.tobytes()) for frame in stream(server, latents, model=name)]
    geometry = pb.LatentGeometry(channels=4, height=HEIGHT, width=WIDTH)
    for told in ({}, {"num_latents": 8}):
        with server.channel() as channel, Call(channel) as client:
            opened = opening(model=name, geometry=geometry, dtype=pb.DATA_TYPE_FLOAT32, reproducible=True, **told)
            client.send(open=opened)
            for latent in latents:
                client.send(latent.tobytes(), num_latents=1)
            client.half_close()
            assert client.read_to_end() == expected
    server.expect_idle()


def test_the_server_tells_of_tiles(server: ServerProcess) -> None:
    """What a client needs to know when frames come."""

    async def ask() -> Any:
        async with FrameClient(server.target) as client:
            return await client.info()

    models = {model.name: model for model in asyncio.run(ask()).models}
    tiled, plain = models["hunyuan"], models["pictures"]
    assert (tiled.exactness, tiled.lookahead_latents, tiled.tile_latents, tiled.tile_stride_latents) == (
        "library-tiles",
        4,
        5,
        3,
    )
    assert (plain.exactness, plain.tile_latents, plain.temporal_factor) == ("full", 0, 1)
