"""What a client asks of a film, checked."""

from typing import Any

import pytest

from framehaul.formats import PixelFormat
from framehaul.v1 import frames_pb2, highlights_pb2
from framehaul_pipeline.errors import InvalidInput, OutOfOrder
from framehaul_pipeline.highlight.rank import Cuts
from framehaul_pipeline.models.embedding import EmbeddingModel
from framehaul_server.core.highlight_request import HighlightAsked, HighlightRules

MODEL = EmbeddingModel(name="m", path="", side=224, picture_sizes=(224,))


def asked(
    *, model: EmbeddingModel | None = MODEL, has_root: bool = True, has_saliency: bool = True, **fields: Any
) -> HighlightAsked:
    rules = HighlightRules(model=model, has_root=has_root, max_upload_bytes=1000, has_saliency=has_saliency)
    return HighlightAsked.of(highlights_pb2.HighlightOpen(**{"images": [b"x"], "path": "a", **fields}), rules)


def test_what_is_left_out_has_its_default() -> None:
    found = asked()
    assert (found.seconds, found.excerpts, found.per_second, found.cuts) == (5.0, 1, 2.0, Cuts.AVOID)
    assert (found.pixel_format, found.crop, found.wants_frames) == (PixelFormat.RGB24, None, False)


def test_what_is_asked_for_is_taken() -> None:
    found = asked(
        path="",
        upload_bytes=7,
        cuts=highlights_pb2.CUTS_NEVER,
        want=highlights_pb2.WANT_FRAMES,
        pixel_format=frames_pb2.PIXEL_FORMAT_YUV420P,
        crop_width=9,
        crop_height=16,
    )
    assert (found.upload_bytes, found.cuts, found.wants_frames) == (7, Cuts.NEVER, True)
    assert (found.pixel_format, found.crop) == (PixelFormat.YUV420P, (9, 16))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cuts": 9}, "open.cuts=9"),
        ({"want": 9}, "open.want=9"),
        ({"pixel_format": 4}, "open.pixel_format=4"),
        ({"images": []}, "open.images=none"),
        ({"images": [], "saliency": True, "want": highlights_pb2.WANT_FRAMES}, "open.images=none"),
        ({"images": [b"x"] * 17}, "open.images=17"),
        ({"images": [b""]}, r"open.images\[0\]"),
        ({"upload_bytes": 1}, "open.upload_bytes=1"),
        ({"path": ""}, "open.upload_bytes=0"),
        ({"path": "", "upload_bytes": 1001}, "open.upload_bytes=1001: must be 1..1000"),
        ({"has_root": False}, "open.path=a: must be empty"),
        ({"seconds": float("inf")}, "open.seconds=inf"),
        ({"crop_height": 1}, "open.crop_width=0:1"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        asked(**fields)


def test_text_needs_a_model_that_reads() -> None:
    with pytest.raises(OutOfOrder, match="knows pictures alone"):
        asked(text="red")


def test_saliency_needs_its_network() -> None:
    """Then it may be wanted of excerpts, and of all of a film."""
    with pytest.raises(OutOfOrder, match=r"needs the weights of TASED-Net, server --highlight-saliency FILE"):
        asked(saliency=True, has_saliency=False)
    assert [found.wants_saliency for found in (asked(), asked(saliency=True))] == [False, True]
    assert [asked(saliency=True, images=[], model=model).kinds for model in (MODEL, None)] == [0, 0]


@pytest.mark.parametrize("fields", [{}, {"images": [], "text": "a can"}, {"images": [], "saliency": False}])
def test_a_server_that_only_maps_searches_for_nothing(fields: dict[str, Any]) -> None:
    with pytest.raises(OutOfOrder, match="searches for nothing without --highlight"):
        asked(model=None, **{"saliency": True, **fields})


def test_a_frame_must_fit_slots_and_messages() -> None:
    asked().check_frame(100, 100, 10000)
    with pytest.raises(InvalidInput, match="at most 9999 pixels"):
        asked().check_frame(100, 100, 9999)
    with pytest.raises(InvalidInput, match="max_message_bytes=65536"):
        asked(max_message_bytes=65536).check_frame(200, 200, 1 << 20)
