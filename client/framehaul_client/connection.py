"""The gRPC channel: its options, and waiting for the server to answer."""

from __future__ import annotations

import asyncio
from typing import Final

import grpc
import grpc.aio

from framehaul import wire
from framehaul_client.errors import ServerUnavailable

# Buffered bytes of a stream whose consumer stalls are about the lookahead and one message. Over a long link it also
# caps a stream's rate: 8 MiB for each round trip.
DEFAULT_LOOKAHEAD_BYTES: Final = 8 << 20
_MAX_FRAME_BYTES: Final = 4 << 20
_KEEPALIVE_MS: Final = 10_000
_PING_TIMEOUT_MS: Final = 5_000
_RECONNECT_MS: Final = (100, 2_000)
_PROBE_TIMEOUT_S: Final = 0.5


def channel_options(lookahead_bytes: int = DEFAULT_LOOKAHEAD_BYTES) -> list[tuple[str, int]]:
    """Return the channel's options; docs/benchmarks.md ("Transport") has the measurements behind them."""
    return [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        # The bandwidth probe grows the receive window without limit while several streams stall, and overrides the
        # lookahead; without the probe the lookahead alone decides.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", lookahead_bytes),
        ("grpc.http2.max_frame_size", _MAX_FRAME_BYTES),
        # keepalive_timeout_ms below a minute has no effect in grpc 1.85: ping_timeout_ms decides.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
        # A session that was lost decides itself when to try again.
        ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS[0]),
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS[1]),
        # Else all channels of a process to one server share one connection.
        ("grpc.use_local_subchannel_pool", 1),
    ]


async def connect(target: str, timeout_s: float, lookahead_bytes: int) -> grpc.aio.Channel:
    """Open a channel to `target`, ready for calls; a server that is just starting is waited for.

    Raises:
        ServerUnavailable: none answered within `timeout_s`.

    Cancellation: closes the channel.
    """
    channel = grpc.aio.insecure_channel(target, options=channel_options(lookahead_bytes))
    try:
        await asyncio.wait_for(channel.channel_ready(), timeout_s)
    except TimeoutError:
        reason = await _failure(channel)
        await channel.close()
        raise ServerUnavailable(f"{target}: no server answered within {timeout_s:g} s ({reason})") from None
    except BaseException:
        await channel.close()
        raise
    return channel


async def _failure(channel: grpc.aio.Channel) -> str:
    """Ask gRPC why it isn't connected: only a call that fails says so."""
    probe: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{wire.SERVICE}/Locate")
    try:
        await probe(b"", timeout=_PROBE_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return "the address takes connections, but nothing there speaks gRPC"
        return _last_cause(error.details() or "no reason given")
    return "it answers now"


def _last_cause(details: str) -> str:
    """Cut gRPC's chain of wrappers down to the last cause: `... connect: Connection refused (111)`."""
    for separator in (" connect: ", "last error: "):
        _, found, cause = details.rpartition(separator)
        if found:
            return cause
    return details
