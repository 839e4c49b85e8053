"""The server's gRPC channel options, as measured (docs/benchmarks.md, "Transport"); a test guards each that matters."""

from __future__ import annotations

from typing import Final

_HANDSHAKE_TIMEOUT_MS: Final = 10_000
_IDLE_TIMEOUT_MS: Final = 10_000
"""A connection without a call costs a descriptor; clients connect again by themselves."""
_READ_BYTES: Final = 64 << 10
_MAX_METADATA_BYTES: Final = 8 << 10
"""A token, and what proxies and tracing add."""
_CONTROL_STREAMS: Final = 64
"""Health, Locate and server information beside the sessions of one connection."""


def server_options(*, max_request_bytes: int, max_calls: int, keepalive_s: float) -> list[tuple[str, int]]:
    """Options of a `grpc.aio.server`; a frozen peer is dropped after 1.5 times `keepalive_s`.

    `max_calls` is more than admission lets in at a time, so that the answer to one too many is admission's.
    """
    keepalive_ms = round(keepalive_s * 1000)
    ping_timeout_ms = keepalive_ms // 2
    return [
        # Two servers on one port must not share it silently.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_request_bytes),
        ("grpc.max_send_message_length", -1),
        # With the probe a client that sends fast may send 4 MiB on every stream that nobody reads; without, 64 KiB.
        ("grpc.http2.bdp_probe", 0),
        # Over this many, a client's gRPC library queues in secret; so admission must refuse long before.
        ("grpc.max_concurrent_streams", max_calls + _CONTROL_STREAMS),
        # Both: between them, gRPC refuses calls at random.
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_TIMEOUT_MS),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", ping_timeout_ms),
        # The one that acts: without it a frozen peer is noticed after a minute, whatever keepalive_timeout_ms says.
        ("grpc.http2.ping_timeout_ms", ping_timeout_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_idle_ms", _IDLE_TIMEOUT_MS),
        # Pings are answered, never held against a client: gRPC's sending away takes time that grows with the square of
        # the pings that came in one read, 10 s of a core for 5 MB. Answers are bounded by what is read at a time.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.experimental.tcp_read_chunk_size", _READ_BYTES),
        ("grpc.experimental.tcp_min_read_chunk_size", _READ_BYTES),
        ("grpc.experimental.tcp_max_read_chunk_size", _READ_BYTES),
    ]
