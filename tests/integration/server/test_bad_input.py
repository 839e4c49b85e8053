"""Whatever comes in gets its status and names its field, and the next good session on the same server works."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import SERVICE
from tests.support.call import details, stream
from tests.support.clips import LATENT_BYTES, latents, opening
from tests.support.server_process import ServerProcess

EXPLICIT = pb.MODE_EXPLICIT
GOOD = latents(1)


INVALID = grpc.StatusCode.INVALID_ARGUMENT
ORDER = grpc.StatusCode.FAILED_PRECONDITION
NAN = np.array([0, 0, 0, 0, 0, np.nan, *[0] * (LATENT_BYTES // 2 - 6)], "<f2").tobytes()


@dataclass(frozen=True)
class Row:
    """One of each kind; the others are in tests/unit, of server/core, server/session, server/rpc and protos."""

    name: str
    code: grpc.StatusCode
    text: str
    requests: tuple[pb.StreamRequest | bytes, ...]


def after_open(name: str, code: grpc.StatusCode, text: str, *rest: pb.StreamRequest, **changes: object) -> Row:
    return Row(name, code, text, (pb.StreamRequest(open=opening(**changes)), *rest))


ROWS = [
    after_open("unknown model", grpc.StatusCode.NOT_FOUND, "open.model='wan'", model="wan"),
    after_open("unknown dtype", INVALID, "open.dtype=9", dtype=9),
    Row("cancel before open", grpc.StatusCode.CANCELLED, "by the client", (pb.StreamRequest(cancel=True),)),
    Row("nothing at all", ORDER, "ended before its first request", ()),
    Row("no protobuf", INVALID, "cut off at byte 3", (b"\xff\xff\xff",)),
    after_open("a second, different open", ORDER, "open: this session", pb.StreamRequest(open=opening(priority=1))),
    after_open("wrong checksum", grpc.StatusCode.DATA_LOSS, "crc32c=", pb.StreamRequest(latents=GOOD, crc32c=1)),
    after_open("NaN", INVALID, "element 5 of latent 0", pb.StreamRequest(latents=NAN)),
    after_open("EXPLICIT half-close", grpc.StatusCode.CANCELLED, "ended before Done", mode=EXPLICIT),
    after_open("cancel", grpc.StatusCode.CANCELLED, "by the client", pb.StreamRequest(cancel=True)),
    after_open(
        "more latents than granted",
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "latents_until",
        *(pb.StreamRequest(latents=latents(100)) for _ in range(10)),
        mode=EXPLICIT,
        window_frames=1,
    ),
    after_open(
        "message over the limit",
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "larger than max",
        pb.StreamRequest(latents=bytes(LATENT_BYTES * 1024)),
    ),
]


def raw(requests: Iterable[pb.StreamRequest | bytes]) -> Iterator[bytes]:
    for each in requests:
        yield each if isinstance(each, bytes) else each.SerializeToString()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_gets_its_status_and_the_next_session_works(server: ServerProcess, row: Row) -> None:
    with server.channel() as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list(stream(channel, raw(row.requests), timeout=60))
        assert caught.value.code() is row.code, details(caught.value)
        assert row.text in details(caught.value)
    server.expect_serves()
    server.expect_idle()


def render(channel: grpc.Channel, request: pb.RenderRequest) -> list[bytes]:
    method: Any = channel.unary_stream(f"/{SERVICE}/Render")
    return list(method(request.SerializeToString(), timeout=60))


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (pb.RenderRequest(), ORDER, "must hold open"),
        (pb.RenderRequest(open=opening(mode=EXPLICIT), latents=GOOD), INVALID, "open.mode"),
        (pb.RenderRequest(open=opening(), latents=GOOD[1:]), INVALID, "latents="),
        (pb.RenderRequest(open=opening(), latents=GOOD, crc32c=1), grpc.StatusCode.DATA_LOSS, "crc32c="),
        (pb.RenderRequest(open=opening(num_latents=3), latents=GOOD), INVALID, "open.num_latents=3"),
    ],
)
def test_render_checks_the_same_things(
    server: ServerProcess, request_: pb.RenderRequest, code: grpc.StatusCode, text: str
) -> None:
    with server.channel() as channel:
        with pytest.raises(grpc.RpcError) as caught:
            render(channel, request_)
        assert caught.value.code() is code
        assert text in details(caught.value)
        good = [
            pb.StreamResponse.FromString(each)
            for each in render(channel, pb.RenderRequest(open=opening(), latents=GOOD))
        ]
        assert (good[-1].done.num_frames, good[-1].done.num_latents) == (4, 1)


def test_a_message_that_inflates_over_the_limit_is_refused_without_inflating_it_whole(server: ServerProcess) -> None:
    """64 MiB of zeros compress to 64 KiB; the server's limit is 1 MiB."""
    with server.channel() as channel:
        before = _resident_bytes(server)
        call = stream(
            channel,
            [pb.StreamRequest(latents=bytes(64 << 20)).SerializeToString()],
            compression=grpc.Compression.Gzip,
            timeout=60,
        )
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert _resident_bytes(server) - before < 16 << 20
    server.expect_serves()


def _resident_bytes(server: ServerProcess) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)
