"""What a well-behaved client gets from the real server."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import SERVICE
from tests.support.call import Call, details
from tests.support.clips import FRAME_BYTES, latents, opening
from tests.support.server_process import ServerProcess

NUM_LATENTS = 6
NUM_FRAMES = 4 * NUM_LATENTS


@pytest.fixture(scope="module")
def expected(server: ServerProcess) -> list[int]:
    """Checksums of the clip's frames, its latents sent in one message."""
    with server.channel() as channel, Call(channel) as client:
        client.send(latents(NUM_LATENTS), open=opening(num_latents=NUM_LATENTS), end_of_latents=True)
        frames = client.read_to_end()
    assert len(set(frames)) >= NUM_LATENTS
    return frames


def test_one_latent_at_a_time_gives_the_same_frames(server: ServerProcess, expected: list[int]) -> None:
    clip = latents(NUM_LATENTS)
    size = len(clip) // NUM_LATENTS
    with server.channel() as channel, Call(channel) as client:
        for index in range(NUM_LATENTS):
            client.send(clip[index * size : (index + 1) * size], open=opening(), index=index)
        client.half_close()
        assert client.read_to_end() == expected
        assert client.done == pb.Done(num_frames=NUM_FRAMES, num_latents=NUM_LATENTS)
    server.expect_idle()


def test_an_explicit_client_with_the_smallest_window_gets_everything(
    server: ServerProcess, expected: list[int]
) -> None:
    with server.channel() as channel, Call(channel) as client:
        client.send(open=opening(mode=pb.MODE_EXPLICIT, window_frames=1))
        client.read()
        assert client.opened.min_window_frames == 4
        assert client.latents_until >= NUM_LATENTS
        client.send(latents(NUM_LATENTS), end_of_latents=True)
        while len(client.frames) < NUM_FRAMES:
            client.read()
            if len(client.frames) % 4 == 0:
                client.send(ack=pb.Ack(next_frame=len(client.frames), window_frames=1))
        assert client.read_to_end() == expected


def test_a_window_is_kept_until_it_is_acknowledged(server: ServerProcess, expected: list[int]) -> None:
    """Nothing beyond the window is decoded: the acknowledgement and what follows are the only way on."""
    with server.channel() as channel, Call(channel) as client:
        client.send(latents(NUM_LATENTS), open=opening(mode=pb.MODE_EXPLICIT, window_frames=8), end_of_latents=True)
        client.read_frames(8)
        # The server answers in order, so a later frame would have to come before this error.
        client.send(ack=pb.Ack(next_frame=9))
        with pytest.raises(grpc.RpcError) as caught:
            client.read()
        assert "at most 8" in details(caught.value)
        assert client.frames == expected[:8]


def test_flooding_latents_cannot_block_an_acknowledgement(server: ServerProcess) -> None:
    """Every granted latent is sent, and the window is closed: only the acknowledgement can go on, and it does."""
    with server.channel() as channel, Call(channel) as client:
        client.send(open=opening(mode=pb.MODE_EXPLICIT, window_frames=4))
        client.read()
        num_sent = client.latents_until
        client.send(latents(num_sent))
        client.read_frames(4)
        for num_taken in range(4, 44, 4):
            client.send(ack=pb.Ack(next_frame=num_taken, window_frames=4))
            client.read_frames(num_taken + 4)


def test_grants_let_a_client_send_a_clip_of_any_length(server: ServerProcess) -> None:
    num_latents = 600  # more than twice the largest grant
    with server.channel() as channel, Call(channel) as client:
        client.send(open=opening(mode=pb.MODE_EXPLICIT, geometry=pb.LatentGeometry(channels=16, height=1, width=1)))
        client.read()
        num_sent = 0
        while num_sent < num_latents:
            count = min(client.latents_until, num_latents) - num_sent
            if count:
                num_sent += count
                client.send(bytes(count * 32), end_of_latents=num_sent == num_latents)
            client.read()
            client.send(ack=pb.Ack(next_frame=len(client.frames), window_frames=100))
        while client.done is None:
            client.read()
            client.send(ack=pb.Ack(next_frame=len(client.frames), window_frames=100))
        assert client.done == pb.Done(num_frames=4 * num_latents, num_latents=num_latents)


def test_frames_of_every_format_and_message_size_are_whole(server: ServerProcess) -> None:
    for pixel_format, frame_bytes in (
        (pb.PIXEL_FORMAT_RGB24, FRAME_BYTES),
        (pb.PIXEL_FORMAT_YUV420P, 64 * 64 * 3 // 2),
        (pb.PIXEL_FORMAT_YUV420P10LE, 64 * 64 * 3),
        (pb.PIXEL_FORMAT_GBRPF16LE, 64 * 64 * 6),
    ):
        for max_message_bytes in (frame_bytes + 68, 3 * frame_bytes, 0):
            with server.channel() as channel, Call(channel) as client:
                opened = opening(pixel_format=pixel_format, max_message_bytes=max_message_bytes)
                client.send(latents(2), open=opened, end_of_latents=True)
                assert len(client.read_to_end()) == 8
                assert client.opened.frame_bytes == frame_bytes


def test_locate_and_server_info_answer(server: ServerProcess) -> None:
    with server.stub() as stub:
        located = stub.Locate(pb.LocateRequest(model="tiny"))
        info = stub.GetServerInfo(pb.GetServerInfoRequest())
        assert located.target == server.target
        assert located.epoch == info.epoch
        assert located.lease_ms > 0
        (tiny,) = info.models
        assert (tiny.name, tiny.state_bytes_per_pixel, tiny.normalization) == ("tiny", 138.0, False)
        assert info.limits.max_pixels == 512 * 512
        assert info.load.slots == 8
        assert info.synthetic
        assert list(info.pixel_formats) == [1, 2, 3, 4]
        assert list(info.dtypes) == [pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_BFLOAT16, pb.DATA_TYPE_FLOAT32]
        with pytest.raises(grpc.RpcError) as caught:
            stub.Locate(pb.LocateRequest(model="wan"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_and_reflection_answer(server: ServerProcess) -> None:
    with server.channel() as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        database = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in database.get_services()
        described = DescriptorPool(database).FindServiceByName(SERVICE)
        assert [method.name for method in described.methods] == ["Stream", "Render", "Locate", "GetServerInfo", "Trace"]


def test_each_session_leaves_one_line_in_the_log(server: ServerProcess) -> None:
    server.expect_idle()
    before = len(server.session_ends())
    server.expect_serves()
    server.expect_idle()
    (line,) = server.session_ends()[before:]
    told = {"method": "Stream", "model": "tiny", "size": "64x64", "mode": "auto", "frames": "8", "latents": "2"}
    assert line.items() >= (told | {"cause": "ok"}).items()


def test_the_ready_line_says_what_is_served(server: ServerProcess) -> None:
    assert server.ready_line.startswith(f"framehaul: serving tiny on {server.target}, device cpu (")
    assert server.ready_line.endswith("MB shared memory, up to 64 sessions")


def test_the_server_process_never_loads_torch(server: ServerProcess) -> None:
    """By its memory map, so that indirect imports count; the worker's map shows that the check can fail."""
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in (server.process.pid, server.worker().pid)]
    assert "libtorch" not in maps[0]
    assert "libtorch" in maps[1]
