import msgspec
import pytest

from framehaul.formats import LatentDtype
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.model import TINY_SPEC
from framehaul_pipeline.spec import Geometry
from tests.support.fake_decoder import FAKE_SPEC


def test_frame_counts_of_a_clip() -> None:
    """The first latent may give fewer frames than the others."""
    assert [FAKE_SPEC.num_frames(n) for n in range(4)] == [0, 1, 3, 5]
    assert [TINY_SPEC.num_frames(n) for n in range(3)] == [0, 4, 8]


def test_lookahead_holds_frames_back_until_the_end() -> None:
    """A frame is out when the latents it looks ahead to are in, or will never come."""
    spec = type(FAKE_SPEC)(
        **{name: getattr(FAKE_SPEC, name) for name in FAKE_SPEC.__struct_fields__} | {"lookahead_latents": 2}
    )
    assert [spec.frames_after(n, ended=False) for n in range(5)] == [0, 0, 0, 1, 3]
    assert spec.frames_after(4, ended=True) == 7


def test_frames_that_are_held_back_may_come_latent_by_latent() -> None:
    """Blank latents behind the last one bring them, and none comes with the end; no chunk is larger for it."""
    spec = msgspec.structs.replace(FAKE_SPEC, lookahead_latents=2, drains=True)
    assert spec.num_blanks == 2
    assert [spec.frames_after(4 + blanks, ended=True) for blanks in range(3)] == [3, 5, 7]
    assert [spec.frames_after(1 + blanks, ended=True) for blanks in range(3)] == [0, 0, 1]
    assert [spec.most_frames(n) for n in (1, 2)] == [2, 4]


TILED = msgspec.structs.replace(
    FAKE_SPEC, temporal_factor=4, lookahead_latents=4, tile_latents=5, tile_stride_latents=3
)


def test_a_tile_gives_its_frames_at_once() -> None:
    """Thirteen frames with the fifth latent, twelve with every third after it, the rest at the end."""
    assert [TILED.frames_after(n, ended=False) for n in range(12)] == [0, 0, 0, 0, 0, 13, 13, 13, 25, 25, 25, 37]
    assert [TILED.frames_after(n, ended=True) for n in (1, 4, 5, 7, 8)] == [1, 13, 17, 25, 29]


def test_a_tile_may_share_more_latents_than_it_settles() -> None:
    """Seven latents every five, of which two fade: 17 frames with each tile, and 5 at the end."""
    spec = msgspec.structs.replace(
        TILED, lookahead_latents=6, tile_latents=7, tile_stride_latents=5, tile_lead_latents=0, period_latents=5
    )
    assert [spec.frames_after(n, ended=False) for n in (6, 7, 11, 12, 17)] == [0, 17, 17, 34, 51]
    assert [spec.frames_after(n, ended=True) for n in (1, 2, 7, 8, 12)] == [1, 5, 22, 26, 39]
    assert [spec.latents_within(frames) for frames in (0, 16, 17, 33, 34)] == [6, 6, 11, 11, 16]


def test_a_decoder_that_is_cold_again_depends_on_nothing_before() -> None:
    cold = msgspec.structs.replace(TINY_SPEC, first_frames=1).restarting(3)
    assert [cold.num_frames(n) for n in range(5)] == [0, 1, 5, 9, 10]
    assert (cold.history_latents, TINY_SPEC.restarting(9).history_latents) == (2, 4)
    assert cold.first_latent_for(9) == 1


def test_a_state_that_grows_is_told_of_the_longest_untold_clip() -> None:
    """Of 128 latents; a told length, or cold starts, make it as much larger or smaller."""
    spec = msgspec.structs.replace(TINY_SPEC, state_bytes_per_pixel=1000.0, growth_bytes_per_pixel=2.0)
    geometry = Geometry(channels=16, height=1, width=1)
    assert [spec.more_state_bytes(geometry, told, 4) for told in (None, 128, 0, 130)] == [0, 0, -128 * 256, 2 * 256]
    cold = spec.restarting(28)
    assert (cold.state_bytes_per_pixel, cold.more_state_bytes(geometry, 500, 2)) == (800.0, 0)


def test_the_most_frames_of_a_chunk() -> None:
    """The latent that fills the first tile may be the last and bring the whole tile."""
    assert [TILED.most_frames(n) for n in (1, 2)] == [17, 21]
    assert TINY_SPEC.most_frames(2) == 8
    assert msgspec.structs.replace(FAKE_SPEC, first_frames=8, lookahead_latents=1).most_frames(1) == 10


def test_latents_whose_frames_fit() -> None:
    """Without tiles the lookahead's latents give none yet; with tiles none of a tile's does before its last."""
    assert [TINY_SPEC.latents_within(frames) for frames in (3, 4, 8)] == [0, 1, 2]
    assert [TILED.latents_within(frames) for frames in (0, 12, 13, 24, 25)] == [4, 4, 7, 7, 10]
    assert [TILED.latents_whole(frames) for frames in (0, 1, 4, 5)] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile_stride_latents": 5}, r"tile_stride_latents=5: must be 1\.\.4 in tiles of 5"),
        ({"tile_stride_latents": 0}, r"tile_stride_latents=0: must be 1\.\.4 in tiles of 5"),
        ({"lookahead_latents": 3}, r"lookahead_latents=3: must be 4 in tiles of 5"),
        ({"tile_lead_latents": 3}, r"tile_lead_latents=3: must be 0\.\.2, as tiles share so many"),
        ({"drains": True}, "drains=True: must be false in tiles or without lookahead_latents"),
        (
            {"drains": True, "tile_latents": 0, "tile_stride_latents": 0, "lookahead_latents": 0},
            "drains=True: must be false in tiles",
        ),
    ],
)
def test_tiles_that_can_not_be_are_refused_by_name(change: dict[str, int], message: str) -> None:
    """Tiles overlap, and the first frame waits for the first tile's last latent."""
    with pytest.raises(ValueError, match=message):
        msgspec.structs.replace(TILED, **change)


@pytest.mark.parametrize(
    ("dtype", "num_bytes"), [(LatentDtype.FLOAT16, 12), (LatentDtype.BFLOAT16, 12), (LatentDtype.FLOAT32, 24)]
)
def test_bytes_of_a_latent(dtype: LatentDtype, num_bytes: int) -> None:
    """Channels times height times width elements."""
    assert Geometry(channels=1, height=2, width=3).latent_bytes(dtype) == num_bytes


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        (Geometry(channels=4, height=8, width=8), r"geometry\.channels=4: must be 16 for model 'tiny'"),
        (Geometry(channels=16, height=0, width=8), r"geometry\.height=0: must be 1\.\.64 latents"),
        (Geometry(channels=16, height=8, width=65), r"geometry\.width=65: must be 1\.\.64 latents"),
        (Geometry(channels=16, height=9, width=8), "geometry=72x64: must be at most 4096 pixels"),
    ],
)
def test_a_geometry_that_does_not_fit_is_refused_by_name(geometry: Geometry, message: str) -> None:
    """Field, value and what is allowed."""
    with pytest.raises(InvalidInput, match=message):
        geometry.check(TINY_SPEC, max_pixels=4096)


def test_a_geometry_that_fits() -> None:
    """Frames are the latents times the spatial factor, in either orientation."""
    for height, width in ((4, 16), (16, 4)):
        geometry = Geometry(channels=16, height=height, width=width)
        geometry.check(TINY_SPEC, max_pixels=4096)
        assert geometry.frame_size(TINY_SPEC) == (8 * height, 8 * width)


@pytest.mark.parametrize(
    ("receptive", "first_frames", "lookahead", "history"),
    [(5, 4, 0, 4), (1, 4, 0, 0), (None, 4, 0, None), (5, 1, 0, 4), (5, 4, 1, None), (5, 1, 1, None)],
)
def test_a_decode_may_start_in_the_middle_when_memory_is_finite_and_nothing_is_held_back(
    receptive: int | None, first_frames: int, lookahead: int, history: int | None
) -> None:
    """Else it starts at the clip's first latent, whichever frame is wanted."""
    spec = msgspec.structs.replace(
        TINY_SPEC, receptive_latents=receptive, first_frames=first_frames, lookahead_latents=lookahead
    )
    assert spec.history_latents == history
    assert spec.first_latent_for(0) == 0
    for latent in range(12):
        first = 0 if history is None else max(0, latent - history)
        own = range(spec.num_frames(latent), spec.num_frames(latent + 1))
        assert {spec.first_latent_for(frame) for frame in own} == {first}
