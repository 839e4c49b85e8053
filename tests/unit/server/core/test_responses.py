from framehaul.causes import Cause
from framehaul.v1 import frames_pb2 as pb
from framehaul_server.core import responses


def test_every_control_response_says_one_thing() -> None:
    assert responses.queued(3) == pb.StreamResponse(queued=pb.Queued(position=3))
    assert responses.grant(9) == pb.StreamResponse(latents_until=9)
    assert responses.drain(0.25) == pb.StreamResponse(drain=pb.Drain(grace_ms=250))
    assert responses.done(8, 2, {Cause.COPY: 1.5}) == pb.StreamResponse(
        done=pb.Done(num_frames=8, num_latents=2, charged=[pb.Charged(cause=pb.CAUSE_COPY, seconds=1.5)])
    )
