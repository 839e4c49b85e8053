"""A worker that is killed under sessions that are driven by hand, as health tells it and as they see it."""

from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from framehaul.v1 import frames_pb2 as pb
from tests.support.call import Call
from tests.support.clips import EXPLICIT, latents, opening
from tests.support.server_process import ServerProcess

CLIP = latents(20)


def test_a_killed_worker_is_a_pause_for_its_sessions(server: ServerProcess) -> None:
    """In both modes, for one that reads and one that doesn't; the frames are those of a run without the fault."""
    with server.channel() as channel, Call(channel) as call, Call(channel) as stalled:
        with Call(channel) as undisturbed:
            undisturbed.send(CLIP, open=opening(), end_of_latents=True)
            expected = undisturbed.read_to_end()
        call.send(CLIP, open=EXPLICIT)
        call.read_frames(8)
        stalled.send(CLIP, open=opening())
        stalled.read_frames(4)
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        worker = server.worker()
        worker.kill()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        call.send(ack=pb.Ack(next_frame=8, window_frames=1000))
        call.send(end_of_latents=True)
        stalled.half_close()
        assert call.read_to_end() == expected
        assert stalled.read_to_end() == expected
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert server.worker().pid != worker.pid
        watch.cancel()
    server.expect_serves()
    server.expect_idle()
