import math

import pytest

from framehaul.causes import Cause
from framehaul.v1 import frames_pb2 as pb
from framehaul_client.command.info import info_json, info_text
from framehaul_client.core.info import HighlightInfo, read_info
from framehaul_client.errors import ProtocolError

MESSAGE = pb.ServerInfo(
    version="0.1",
    device="cuda:0",
    epoch=5,
    models=[
        pb.ModelInfo(name="tiny", channels=16, spatial_factor=8, temporal_factor=4, first_frames=4,
                     exactness=pb.EXACTNESS_LIBRARY_TILES, receptive_latents=0,
                     state_bytes_per_pixel=138.0, normalization=True, tile_latents=5, tile_stride_latents=3),
        pb.ModelInfo(name="big"),
    ],
    pixel_formats=[pb.PIXEL_FORMAT_RGB24],
    dtypes=[pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_FLOAT32],
    limits=pb.Limits(
        max_sessions=64, max_pixels=2, max_request_bytes=3, max_response_bytes=4, chunk_latents=5, max_queued=9
    ),
    load=pb.Load(sessions=6, slots=8, slots_in_use=7, queued=3),
)  # fmt: skip


def test_every_field_is_carried_over() -> None:
    """Nothing the server says is lost; 'all past latents' differs from none."""
    info = read_info(MESSAGE)
    assert (info.version, info.device, info.epoch, info.synthetic) == ("0.1", "cuda:0", 5, False)
    assert (info.max_sessions, info.max_pixels, info.max_request_bytes, info.max_response_bytes) == (64, 2, 3, 4)
    assert (info.chunk_latents, info.num_sessions, info.num_slots, info.num_slots_in_use) == (5, 6, 8, 7)
    assert (info.max_queued, info.num_queued) == (9, 3)
    assert [model.name for model in info.models] == ["tiny", "big"]
    assert [model.receptive_latents for model in info.models] == [0, None]
    assert [(model.tile_latents, model.tile_stride_latents) for model in info.models] == [(5, 3), (0, 0)]
    assert [model.exactness for model in info.models] == ["library-tiles", "unspecified"]
    assert [model.state_bytes_per_pixel for model in info.models] == [138.0, 0.0]
    assert [model.normalization for model in info.models] == [True, False]


def test_how_films_are_searched_is_carried_over_and_told() -> None:
    """Where they are."""
    told = pb.HighlightInfo(
        model="lite\x1b", reads_text=True, has_films=True, max_upload_bytes=3 << 30, readers=8, readers_in_use=2
    )
    mapping = pb.HighlightInfo(saliency=True, max_upload_bytes=1 << 30, readers=1)
    assert (
        "  maps of where people look in films; uploads of up to 1 GiB; 0 of 1 readers in use"
        in info_text("host:1", read_info(pb.ServerInfo(highlights=mapping))).splitlines()
    )
    info = read_info(pb.ServerInfo(highlights=told))
    assert info.highlights == HighlightInfo(
        model="lite\x1b", reads_text=True, has_films=True, max_upload_bytes=3 << 30, num_readers=8, num_reading=2
    )
    assert (
        "  highlights of films by pictures or words, with lite\\x1b; uploads of up to 3 GiB, or films that it has; "
        "2 of 8 readers in use" in info_text("host:1", info).splitlines()
    )
    assert read_info(MESSAGE).highlights is None
    assert "highlights" not in info_text("host:1", read_info(MESSAGE))


def test_values_of_a_newer_server_are_no_error() -> None:
    """Unknown enum numbers are left out or called unspecified."""
    message = pb.ServerInfo.FromString(
        pb.ServerInfo(models=[pb.ModelInfo(name="m")]).SerializeToString() + b"\x2a\x02\x01\x63" + b"\x32\x01\x63"
    )
    # Field 5 of ModelInfo is an int; its exactness (7) is set by hand.
    message.models[0].MergeFromString(b"\x38\x63")
    info = read_info(message)
    assert info.pixel_formats == ("rgb24",)
    assert info.dtypes == ()
    assert info.models[0].exactness == "unspecified"


def test_text_and_json() -> None:
    """People get lines, programs get one line of JSON."""
    info = read_info(MESSAGE)
    text = info_text("host:1", info)
    assert "host:1: framehaul 0.1 on cuda:0, 6 of 64 sessions, 3 queued, 7 of 8 slots in use" in text
    assert "\n  tiny (default)  16 " in text
    assert "all latents" in text
    assert "synthetic" not in text
    assert '"name": "tiny"' in info_json(info)
    MESSAGE_SYNTHETIC = pb.ServerInfo.FromString(MESSAGE.SerializeToString())
    MESSAGE_SYNTHETIC.synthetic = True
    assert "synthetic latents are allowed" in info_text("host:1", read_info(MESSAGE_SYNTHETIC))


def test_time_is_told_by_what_it_went_to() -> None:
    """Without causes that this client doesn't know."""
    charged = [pb.Charged(cause=pb.CAUSE_COPY, seconds=1.5), pb.Charged(cause=99, seconds=1)]  # type: ignore[arg-type]
    assert read_info(pb.ServerInfo(charged=charged)).charged_s == {Cause.COPY: 1.5}


@pytest.mark.parametrize("seconds", [-1.0, math.inf, math.nan])
def test_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ProtocolError, match=r"charged\.seconds=.*: must be 0 or more"):
        read_info(pb.ServerInfo(charged=[pb.Charged(cause=pb.CAUSE_COPY, seconds=seconds)]))
