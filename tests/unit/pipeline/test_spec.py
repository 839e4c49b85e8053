import pytest

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models import TINY_SPEC
from framehaul_pipeline.spec import Geometry, LatentDtype, PixelFormat
from tests.fake_decoder import FAKE_SPEC


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


@pytest.mark.parametrize(
    ("dtype", "num_bytes"), [(LatentDtype.FLOAT16, 12), (LatentDtype.BFLOAT16, 12), (LatentDtype.FLOAT32, 24)]
)
def test_bytes_of_a_latent(dtype: LatentDtype, num_bytes: int) -> None:
    """Channels times height times width elements."""
    assert Geometry(channels=1, height=2, width=3).latent_bytes(dtype) == num_bytes


def test_bytes_of_a_frame() -> None:
    """Three bytes a pixel, one and a half, or six."""
    assert PixelFormat.RGB24.frame_bytes(480, 832) == 1_198_080
    assert PixelFormat.YUV420P.frame_bytes(480, 832) == 599_040
    assert PixelFormat.YUV420P10LE.frame_bytes(480, 832) == 1_198_080
    assert PixelFormat.GBRPF16LE.frame_bytes(480, 832) == 2_396_160


def test_pixels_of_a_frame_that_a_slot_holds() -> None:
    """Slots have three bytes for each of the largest frame's: narrower formats win nothing, wider ones hold fewer."""
    assert [each.max_pixels(1001) for each in PixelFormat] == [1001, 1001, 1001, 500]


def test_chroma_of_two_by_two_pixels() -> None:
    """Those formats need even frames."""
    assert [each for each in PixelFormat if each.subsampled] == [PixelFormat.YUV420P, PixelFormat.YUV420P10LE]


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
