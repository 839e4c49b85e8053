from framehaul.v1 import frames_pb2 as pb
from framehaul_server import responses
from framehaul_server.validation import check_open
from framehaul_server.window import WindowLimits
from tests.unit.server.fakes import opening, rules


def test_every_control_response_says_one_thing() -> None:
    assert responses.grant(9) == pb.StreamResponse(latents_until=9)
    assert responses.drain(0.25) == pb.StreamResponse(drain=pb.Drain(grace_ms=250))
    assert responses.done(8, 2) == pb.StreamResponse(done=pb.Done(num_frames=8, num_latents=2))


def test_session_ids_are_long_and_never_the_same() -> None:
    request = check_open(opening(), None, rules().opening)
    limits = WindowLimits(min_frames=4, max_frames=12)
    ids = {responses.opened(request, limits, latents_until=0).opened.session_id for _ in range(100)}
    assert len(ids) == 100
    assert {len(each) for each in ids} == {16}
