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
from tests.support.clips import CHANNELS, LATENT_BYTES, SIZE, latents, opening
from tests.support.server_process import ServerProcess

EXPLICIT = pb.MODE_EXPLICIT
GOOD = latents(1)


def geometry(channels: int = CHANNELS, height: int = SIZE, width: int = SIZE) -> pb.LatentGeometry:
    return pb.LatentGeometry(channels=channels, height=height, width=width)


def with_value(value: float, dtype: str) -> bytes:
    elements = np.zeros(LATENT_BYTES // 2, dtype=dtype)
    elements[5] = value
    return elements.tobytes()


def bfloat16_nan() -> bytes:
    elements = np.zeros(LATENT_BYTES // 2, dtype="<u2")
    elements[5] = 0x7FC0
    return elements.tobytes()


@dataclass(frozen=True)
class Row:
    name: str
    code: grpc.StatusCode
    text: str
    requests: tuple[pb.StreamRequest | bytes, ...]


def after_open(name: str, code: grpc.StatusCode, text: str, *rest: pb.StreamRequest, **changes: object) -> Row:
    return Row(name, code, text, (pb.StreamRequest(open=opening(**changes)), *rest))


def in_open(name: str, text: str, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT, **changes: object) -> Row:
    return Row(name, code, text, (pb.StreamRequest(open=opening(**changes), latents=GOOD),))


INVALID = grpc.StatusCode.INVALID_ARGUMENT
ORDER = grpc.StatusCode.FAILED_PRECONDITION
SYNTHETIC = pb.Synthetic(num_latents=1, height=64, width=64)

ROWS = [
    # More fields in tests/unit/server/core/test_open_request.py.
    in_open("unknown model", "open.model='wan'", grpc.StatusCode.NOT_FOUND, model="wan"),
    in_open("wrong channel count", "geometry.channels=4: must be 16", geometry=geometry(channels=4)),
    in_open("unknown dtype", "open.dtype=9", dtype=9),
    in_open("resume in AUTO mode", "open.resume=set: must be unset, but in EXPLICIT", resume=pb.Resume()),
    in_open("guessed session", "no such session", grpc.StatusCode.NOT_FOUND, resume=pb.Resume(session_id=b"x" * 16)),
    in_open("start behind the end", "open.start_frame=8: must be 0..7", start_frame=8, num_latents=2),
    after_open(
        "start behind the end of an undeclared clip",
        INVALID,
        "open.start_frame=8: must be at most 4",
        pb.StreamRequest(latents=GOOD),
        start_frame=8,
    ),
    Row("cancel before open", grpc.StatusCode.CANCELLED, "by the client", (pb.StreamRequest(cancel=True),)),
    Row("nothing at all", ORDER, "ended before its first request", ()),
    Row("latents before open", ORDER, "must hold open", (pb.StreamRequest(latents=GOOD),)),
    Row("no protobuf", INVALID, "cut off at byte 3", (b"\xff\xff\xff",)),
    Row("group fields", INVALID, "wire type 3", (b"\x0b\x0c",)),
    Row("cut off", INVALID, "ends at", (pb.StreamRequest(open=opening()).SerializeToString()[:-2],)),
    Row("not utf-8", INVALID, "not a StreamRequest", (b"\x0a\x04\x0a\x02\xff\xff",)),
    after_open("a second, different open", ORDER, "open: this session", pb.StreamRequest(open=opening(priority=1))),
    after_open("short byte count", INVALID, f"latents={LATENT_BYTES - 1} bytes", pb.StreamRequest(latents=GOOD[:-1])),
    after_open("long byte count", INVALID, f"latents={LATENT_BYTES + 1} bytes", pb.StreamRequest(latents=GOOD + b"x")),
    after_open("no bytes", INVALID, "latents=0 bytes", pb.StreamRequest(index=0)),
    after_open("checksum of no latents", INVALID, "latents=0 bytes", pb.StreamRequest(crc32c=0)),
    after_open("wrong num_latents", INVALID, "num_latents=2: must be 1", pb.StreamRequest(latents=GOOD, num_latents=2)),
    after_open("index gap", ORDER, "index=1", pb.StreamRequest(latents=GOOD, index=1)),
    after_open(
        "index repeat", ORDER, "index=0", pb.StreamRequest(latents=GOOD), pb.StreamRequest(latents=GOOD, index=0)
    ),
    after_open("wrong checksum", grpc.StatusCode.DATA_LOSS, "crc32c=", pb.StreamRequest(latents=GOOD, crc32c=1)),
    after_open("NaN", INVALID, "element 5 of latent 0", pb.StreamRequest(latents=with_value(np.nan, "<f2"))),
    after_open(
        "infinity",
        INVALID,
        "element 5 of latent 0",
        pb.StreamRequest(latents=with_value(-np.inf, "<f4")),
        dtype=pb.DATA_TYPE_FLOAT32,
    ),
    after_open(
        "NaN in bfloat16", INVALID, "element 5", pb.StreamRequest(latents=bfloat16_nan()), dtype=pb.DATA_TYPE_BFLOAT16
    ),
    after_open(
        "more latents than declared", INVALID, "at most 1", pb.StreamRequest(latents=GOOD + GOOD), num_latents=1
    ),
    after_open(
        "fewer latents than declared", INVALID, "open.num_latents=2", pb.StreamRequest(latents=GOOD), num_latents=2
    ),
    after_open(
        "latents after the end",
        ORDER,
        "after end_of_latents",
        pb.StreamRequest(end_of_latents=True, latents=latents(40)),
        pb.StreamRequest(latents=GOOD),
    ),
    after_open("acknowledgement in AUTO", ORDER, "ack: only", pb.StreamRequest(ack=pb.Ack(window_frames=4))),
    after_open(
        "too early an ack", INVALID, "ack.next_frame=5", pb.StreamRequest(ack=pb.Ack(next_frame=5)), mode=EXPLICIT
    ),
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
    after_open("synthetic after latents", ORDER, "synthetic: this session", pb.StreamRequest(synthetic=SYNTHETIC)),
    Row(
        "synthetic of an odd size",
        INVALID,
        "synthetic.width=65",
        (pb.StreamRequest(synthetic=pb.Synthetic(num_latents=1, height=64, width=65)),),
    ),
    Row(
        "synthetic without latents",
        INVALID,
        "synthetic.num_latents=0",
        (pb.StreamRequest(synthetic=pb.Synthetic(height=64, width=64)),),
    ),
    Row(
        "latents in a synthetic session",
        ORDER,
        "opened with synthetic",
        (pb.StreamRequest(synthetic=SYNTHETIC), pb.StreamRequest(latents=GOOD)),
    ),
]


def raw(requests: Iterable[pb.StreamRequest | bytes]) -> Iterator[bytes]:
    for each in requests:
        yield each if isinstance(each, bytes) else each.SerializeToString()


def status_of_stream(channel: grpc.Channel, row: Row) -> grpc.RpcError:
    call = stream(channel, raw(row.requests), timeout=20)
    with pytest.raises(grpc.RpcError) as caught:
        for _ in call:
            pass
    return caught.value


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_gets_its_status_and_the_next_session_works(server: ServerProcess, row: Row) -> None:
    with server.channel() as channel:
        error = status_of_stream(channel, row)
        assert error.code() is row.code, details(error)
        assert row.text in details(error)
    server.expect_serves()
    server.expect_idle()


def render(channel: grpc.Channel, request: pb.RenderRequest) -> list[bytes]:
    method: Any = channel.unary_stream(f"/{SERVICE}/Render")
    return list(method(request.SerializeToString(), timeout=20))


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
            timeout=20,
        )
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert _resident_bytes(server) - before < 16 << 20
    server.expect_serves()


def _resident_bytes(server: ServerProcess) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)
