"""A real server against clients that mean harm: it stays small, and serves the next good session."""

import re
import struct
import zlib
from typing import Any

import grpc
import psutil
import pytest

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from tests.support.call import Call
from tests.support.clips import opening
from tests.support.http2 import GOAWAY, HEADERS, PING, RST_STREAM, Http2
from tests.support.memory import MIB, forget_peak, peak_bytes
from tests.support.server_process import ServerProcess

BOMB_BYTES = 512 << 20


def gzip_bomb() -> bytes:
    """A gRPC message of half a megabyte that inflates to 512 MiB of zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(MIB)
    packed = b"".join(packer.compress(zeros) for _ in range(BOMB_BYTES // MIB)) + packer.flush()
    return b"\1" + struct.pack(">I", len(packed)) + packed


def test_a_gzip_bomb_is_refused_and_the_server_stays_small(server: ServerProcess) -> None:
    """On both methods that take large messages; the limit on a request is that of the inflated one."""
    server.expect_serves()
    forget_peak(server)
    before = peak_bytes(server)
    bomb = gzip_bomb()
    for method in ("Render", "Stream"):
        with Http2(server.target) as attacker:
            attacker.call(f"/{wire.SERVICE}/{method}", grpc_encoding="gzip")
            attacker.data(bomb)
            answer = attacker.until(HEADERS, RST_STREAM, GOAWAY)
            assert answer is not None
            if answer[0] == HEADERS:
                assert b"grpc-status" in answer[1]
    server.expect_serves()
    assert peak_bytes(server) - before < 64 * MIB
    assert "Traceback" not in server.log, "a client can fill the log"


def test_a_flood_of_pings_costs_little(server: ServerProcess) -> None:
    """4 MB of them in one write: a moment of one core, where gRPC's own sending away takes 10 s; and no memory."""
    process = psutil.Process(server.process.pid)
    server.expect_serves()
    forget_peak(server)
    before, before_s = peak_bytes(server), sum(process.cpu_times()[:2])
    with Http2(server.target) as attacker:
        attacker.flood(PING, bytes(8), num_frames=240_000)
        server.expect_serves()
    assert sum(process.cpu_times()[:2]) - before_s < 2
    assert peak_bytes(server) - before < 16 * MIB


@pytest.mark.parametrize("num_bytes", [9 << 10, 64 << 10, 1 << 20])
def test_large_metadata_is_refused(server: ServerProcess, num_bytes: int) -> None:
    with server.channel() as channel:
        method: Any = channel.unary_unary(f"/{wire.SERVICE}/GetServerInfo")
        assert method(b"", metadata=(("x", "y" * (6 << 10)),), timeout=60)
        with pytest.raises(grpc.RpcError) as caught:
            method(b"", metadata=(("x", "y" * num_bytes),), timeout=60)
        error: Any = caught.value
        assert error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
    server.expect_serves()


def test_no_process_of_ours_dumps_core(server: ServerProcess) -> None:
    for process in (psutil.Process(server.process.pid), server.worker()):
        assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)


HOSTILE = "x\n2026-01-01T00:00:00.000Z ERROR forged id=1\r\x1b[31m\x00\u202e\u2028"


def test_what_clients_say_is_harmless_in_the_log(server: ServerProcess) -> None:
    """Model names, user agents and latents with control characters: no line is forged, nothing secret is told."""
    with server.channel() as channel:
        for field in ({"model": HOSTILE}, {"pixel_format": 99}, {"num_latents": 1 << 60}):
            with Call(channel) as client:
                client.send(open=opening(**field))
                with pytest.raises(grpc.RpcError):
                    client.read()
        with Call(channel) as client:
            client.send(b"latent-marker\n" * 999, open=opening())
            with pytest.raises(grpc.RpcError):
                client.read_to_end()
        raw: Any = channel.stream_stream(f"/{wire.SERVICE}/Stream")
        with pytest.raises(grpc.RpcError):
            list(raw(iter([b"\xff\n forged level=error"])))
        info: Any = channel.unary_unary(f"/{wire.SERVICE}/GetServerInfo")
        secret = (("authorization", "Bearer token-marker"), ("x-request-id", "marker ERROR forged"))
        assert pb.ServerInfo.FromString(info(b"", metadata=secret)).version
    server.expect_serves()
    server.expect_idle()
    log = server.log
    assert "forged" in log  # the model's name, quoted
    for text in log.splitlines():
        assert text.isprintable(), text
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) ", text), text
    assert not re.search(r"^2026-01-01T00:00:00.000Z", log, re.MULTILINE)
    assert "marker" not in log
