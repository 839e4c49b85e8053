import msgspec

from framehaul.v1 import frames_pb2 as pb
from framehaul_server.rpc.info import max_response_bytes, model_info, sum_of
from tests.support.fakes import SPEC


def test_a_model_says_what_a_client_needs_to_count_frames() -> None:
    info = model_info(msgspec.structs.replace(SPEC, receptive_latents=5))
    assert not info.rates
    assert (info.name, info.channels, info.spatial_factor) == ("toy", 2, 2)
    assert (info.temporal_factor, info.first_frames, info.lookahead_latents) == (4, 4, 0)
    assert info.exactness == pb.EXACTNESS_FULL
    assert info.receptive_latents == 5
    assert info.state_bytes_per_pixel == 1.0
    assert (info.tile_latents, info.tile_stride_latents) == (0, 0)
    tiled = msgspec.structs.replace(SPEC, lookahead_latents=4, tile_latents=5, tile_stride_latents=3)
    assert (model_info(tiled).tile_latents, model_info(tiled).tile_stride_latents) == (5, 3)


def test_a_model_says_whether_it_has_a_mean_and_deviation() -> None:
    """Only then does `Open.normalized` make a difference."""
    assert not model_info(SPEC).normalization
    assert model_info(msgspec.structs.replace(SPEC, latent_mean=(0.0, 0.0), latent_std=(1.0, 2.0))).normalization


def test_dependence_on_all_past_latents_is_said_by_leaving_the_number_out() -> None:
    assert not model_info(SPEC).HasField("receptive_latents")


def test_the_largest_response_holds_the_largest_frame() -> None:
    assert max_response_bytes(100) == 4 << 20
    assert max_response_bytes(1920 * 1088) > 1920 * 1088 * 3


def test_several_servers_are_told_as_one() -> None:
    """What any of them offers, the largest of limits on one session, and the sums of what there is."""
    one = pb.ServerInfo(
        device="cpu", epoch=5, ready=True, models=[pb.ModelInfo(name="tiny")], pixel_formats=[pb.PIXEL_FORMAT_RGB24],
        limits=pb.Limits(max_sessions=2, max_pixels=100), load=pb.Load(sessions=1, session_memory_bytes=1 << 63),
        charged=[pb.Charged(cause=pb.CAUSE_IDLE, seconds=1.5)],
    )  # fmt: skip
    other = pb.ServerInfo(
        device="cpu", epoch=6, models=[pb.ModelInfo(name="wan"), pb.ModelInfo(name="tiny", channels=9)],
        limits=pb.Limits(max_sessions=(1 << 32) - 1, max_pixels=300), load=pb.Load(session_memory_bytes=1 << 63),
        charged=[pb.Charged(cause=pb.CAUSE_IDLE, seconds=2.0)], synthetic=True, epochs=[7], metrics=["a:1", "b:1"],
        highlights=pb.HighlightInfo(model="clip", reads_text=True, max_upload_bytes=5, readers=3, readers_in_use=1),
    )  # fmt: skip
    whole = sum_of([one, other], version="1", epoch=4)
    assert (whole.device, whole.epoch, list(whole.epochs), whole.target) == ("front of 2: 2 x cpu", 4, [5, 6, 7], "")
    assert list(whole.metrics) == ["a:1", "b:1"]
    assert {model.name: model.channels for model in whole.models} == {"tiny": 0, "wan": 0}
    assert list(whole.pixel_formats) == [pb.PIXEL_FORMAT_RGB24]
    assert (whole.limits.max_sessions, whole.limits.max_pixels) == ((1 << 32) - 1, 300)
    assert (whole.load.sessions, whole.load.session_memory_bytes) == (1, (1 << 64) - 1)
    assert [(each.cause, each.seconds) for each in whole.charged] == [(pb.CAUSE_IDLE, 3.5)]
    assert (whole.ready, whole.synthetic) == (True, True)
    assert whole.highlights == other.highlights
    more = pb.ServerInfo(highlights=pb.HighlightInfo(model="lite", has_films=True, max_upload_bytes=9, readers=2))
    maps = pb.ServerInfo(highlights=pb.HighlightInfo(saliency=True))
    assert sum_of([one, other, more, maps], version="1", epoch=4).highlights == pb.HighlightInfo(
        model="clip, lite",
        reads_text=True,
        has_films=True,
        max_upload_bytes=9,
        readers=5,
        readers_in_use=1,
        saliency=True,
    )
    assert not sum_of([one], version="1", epoch=4).HasField("highlights")


def test_a_model_says_what_it_took_here() -> None:
    rate = pb.MeasuredRate(width=8, height=8, num_frames=3, device_s=1.5)
    assert list(model_info(SPEC, [rate]).rates) == [rate]
