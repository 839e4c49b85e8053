"""HunyuanVideo's temporal tiles, against the library's default decode: a small random VAE, float32, on the CPU."""

from collections.abc import Iterable, Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo
from hypothesis import given, settings
from torch import Tensor

from framehaul_pipeline.decoders.hunyuan_video import HunyuanVideoDecoder
from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.hunyuan_video import (
    FADE_FRAMES,
    TILE_FRAMES,
    TILE_STRIDE_FRAMES,
    hunyuan_video_spec,
    parse_hunyuan_video_config,
)
from framehaul_pipeline.models.model import describe_model
from framehaul_pipeline.spec import Geometry
from framehaul_pipeline.worker.warm_up import warm_up
from tests.support.decoder_checks import one_thread
from tests.support.live_memory import peak_bytes
from tests.unit.pipeline.decoders.interpreted_diffusers import interpreted

GEOMETRY = Geometry(channels=4, height=2, width=3)
Loaded = tuple[AutoencoderKLHunyuanVideo, HunyuanVideoDecoder]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The library's VAE, and ours from its folder."""
    folder = tmp_path_factory.mktemp("hunyuan")
    torch.manual_seed(5)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=2
    ).eval()
    vae.save_pretrained(folder)
    decoder = load_decoder(describe_model(f"hunyuan={folder}"), torch.device("cpu"))
    assert isinstance(decoder, HunyuanVideoDecoder)
    return vae, decoder


def clip(num_latents: int) -> Tensor:
    return torch.randn(num_latents, 4, 2, 3, generator=torch.Generator().manual_seed(num_latents))


@torch.inference_mode()
def library_frames(vae: AutoencoderKLHunyuanVideo, latents: Tensor) -> Tensor:
    """`[F, 3, H, W]`, as the library decodes by default."""
    frames: Tensor = vae.decode(latents.transpose(0, 1)[None]).sample[0].transpose(0, 1)
    return frames


def stream(decoder: HunyuanVideoDecoder, latents: Tensor, feeds: Iterable[int]) -> Tensor:
    """Decode as the scheduler does, `feeds` latents becoming available at a time; each chunk is held to the spec."""
    state = decoder.open(GEOMETRY, None)
    frames: list[Tensor] = []
    num_decoded = num_frames = available = 0
    for feed in feeds:
        available = min(available + feed, len(latents) - num_decoded)
        while size := decoder.next_chunk(num_decoded, available, feed, ended=False):
            decoded, state = decoder.step(latents[num_decoded : num_decoded + size], state)
            num_decoded += size
            available -= size
            num_frames += len(decoded)
            assert num_frames == decoder.spec.frames_after(num_decoded, ended=False)
            frames.append(decoded)
    held_back = decoder.flush(state)
    assert held_back is not None
    assert num_decoded == len(latents)
    assert num_frames + len(held_back) == decoder.spec.frames_after(num_decoded, ended=True)
    return torch.cat([*frames, held_back])


@pytest.mark.parametrize("num_latents", range(1, 15))
def test_every_feed_equals_the_librarys_default_decode_bit_by_bit(loaded: Loaded, num_latents: int) -> None:
    """Difference 0 for clips shorter than a tile, of whole tiles and between, fed 1, 2, 3 or 5 at a time."""
    vae, decoder = loaded
    latents = clip(num_latents)
    expected = library_frames(vae, latents)
    assert len(expected) == decoder.spec.num_frames(num_latents)
    for feed in (1, 2, 3, 5):
        assert torch.equal(stream(decoder, latents, [feed] * num_latents), expected)


@settings(max_examples=25)
@given(data=st.data(), num_latents=st.integers(1, 14))
def test_whatever_the_feed_the_frames_are_as_many_as_the_specification_says(
    loaded: Loaded, data: st.DataObject, num_latents: int
) -> None:
    """Any mix of feeds; `stream` holds every chunk to the specification."""
    _, decoder = loaded
    feeds, total = [], 0
    while total < num_latents:
        feeds.append(data.draw(st.integers(1, 6)))
        total += feeds[-1]
    assert len(stream(decoder, clip(num_latents), feeds)) == decoder.spec.num_frames(num_latents)


def test_the_last_latent_changes_the_first_frame_without_tiles(loaded: Loaded) -> None:
    """So no cache makes that decode causal: norms take mean and deviation over all frames."""
    vae, _ = loaded
    latents = clip(4)
    latents[-1] += 1.0
    first, other = (library_frames(vae, each)[0] for each in (clip(4), latents))
    assert (first - other).abs().max() > 0.01


def test_interleaved_sessions_do_not_touch_each_other(loaded: Loaded) -> None:
    """Two sessions in turns give what each gives alone."""
    _, decoder = loaded
    clips = (clip(9), clip(9) * 2.0)
    states, frames = [decoder.open(GEOMETRY, None) for _ in clips], [[], []]  # type: list[Any], list[list[Tensor]]
    for index in range(9):
        for session, latents in enumerate(clips):
            decoded, states[session] = decoder.step(latents[index : index + 1], states[session])
            frames[session].append(decoded)
    for session, latents in enumerate(clips):
        held_back = decoder.flush(states[session])
        assert held_back is not None
        assert torch.equal(torch.cat([*frames[session], held_back]), stream(decoder, latents, [9]))


def test_a_chunk_ends_where_a_tile_is_full(loaded: Loaded) -> None:
    """So that no chunk decodes two tiles; and nothing is taken of nothing."""
    _, decoder = loaded
    assert [decoder.next_chunk(index, 9, 9, ended=False) for index in range(9)] == [5, 4, 3, 2, 1, 3, 2, 1, 3]
    assert decoder.next_chunk(0, 0, 4, ended=True) == 0
    assert decoder.flush(decoder.open(GEOMETRY, None)) is None


def test_warming_up_decodes_a_whole_tile(loaded: Loaded, caplog: pytest.LogCaptureFixture) -> None:
    """Latents come until there are frames: what fills a tile costs nothing to warm up."""
    _, decoder = loaded
    with caplog.at_level("INFO"):
        found = warm_up(
            [decoder], torch.device("cpu"), [(24, 16)], chunk_latents=2, slot_bytes=1 << 20, room_bytes=lambda: None
        )
    assert "size=24x16 chunks=1,1,1,1,1,2,1,1,1,1 " in caplog.text
    assert found == {("hunyuan", GEOMETRY): 2}


def test_state_is_what_the_specification_says(loaded: Loaded) -> None:
    """The fullest state is within a tenth of `state_bytes`, which is what the server reckons with in bfloat16."""
    _, decoder = loaded
    state, fullest = decoder.open(GEOMETRY, None), 0
    for latent in clip(14).split(1):
        _, state = decoder.step(latent, state)
        fullest = max(fullest, sum(tensor.untyped_storage().nbytes() for tensor in state))
    assert fullest == pytest.approx(decoder.state_bytes(GEOMETRY), rel=0.1)
    height, width = GEOMETRY.frame_size(decoder.spec)
    assert 2 * decoder.spec.state_bytes_per_pixel * height * width == pytest.approx(fullest, rel=0.1)


@pytest.mark.parametrize(("height", "width"), [(60, 104), (90, 160)])
def test_workspace_is_what_a_tile_takes(loaded: Loaded, height: int, width: int) -> None:
    """Within a fifth of what the library's tensors take at most, at the real configuration, in bfloat16."""
    with torch.device("meta"):
        vae = AutoencoderKLHunyuanVideo().to(torch.bfloat16)
        latents = torch.empty(1, 16, 5, height, width, dtype=torch.bfloat16)
    spec = hunyuan_video_spec("hunyuan", parse_hunyuan_video_config({}))
    decoder = HunyuanVideoDecoder(spec, vae, vae.config.block_out_channels, torch.device("cuda"))
    measured = peak_bytes(vae, latents, lambda z: vae.decoder(vae.post_quant_conv(z)))
    estimated = decoder.workspace_bytes(Geometry(channels=16, height=height, width=width), 1)
    assert estimated == pytest.approx(measured, rel=0.2)


def test_the_gpus_engine_equals_the_library() -> None:
    """Within 2e-5 in float32: tiles of 3 latents and of 1, other widths, means far from zero."""
    differences = interpreted()["clips"]
    assert len(differences) == 2
    assert max(differences) < 2e-5, differences


def test_tiles_are_those_of_the_library(loaded: Loaded) -> None:
    """The library holds them as attributes, not in its config."""
    vae, _ = loaded
    assert vae.use_framewise_decoding
    assert not vae.use_tiling
    assert (vae.tile_sample_min_num_frames, vae.tile_sample_stride_num_frames) == (TILE_FRAMES, TILE_STRIDE_FRAMES)
    assert FADE_FRAMES == 4


def test_an_empty_config_is_the_published_model() -> None:
    """The library's defaults; latents of its pipeline are divided by the scaling factor."""
    parsed = parse_hunyuan_video_config({})
    assert (parsed["block_out_channels"], parsed["latent_channels"]) == ([128, 256, 512, 512], 16)
    assert hunyuan_video_spec("hunyuan", parsed).latent_std == (1.0 / 0.476986,) * 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temporal_compression_ratio": 8}, "config.json temporal_compression_ratio=8: must be 4"),
        ({"spatial_compression_ratio": 16}, "config.json spatial_compression_ratio=16: must be 8"),
        ({"block_out_channels": [32, 64]}, r"block_out_channels=\[32, 64\]: must be 4 multiples of norm_num_groups=32"),
        ({"norm_num_groups": 24}, "block_out_channels=.*: must be 4 multiples of norm_num_groups=24"),
        ({"up_block_types": ["UpBlock3D"]}, "up_block_types=.*: must be 4 times HunyuanVideoUpBlock3D"),
        ({"scaling_factor": 0}, "scaling_factor=0: must be a positive number"),
    ],
)
def test_a_config_that_is_not_implemented_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    """Field, value and what is allowed."""
    with pytest.raises(InvalidInput, match=message):
        parse_hunyuan_video_config(change)
