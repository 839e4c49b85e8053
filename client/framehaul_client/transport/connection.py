"""The gRPC channel: its options, and waiting for the server to answer."""

from __future__ import annotations

import asyncio
import os
from typing import Final
from urllib.request import proxy_bypass

import grpc
import grpc.aio

from framehaul import wire
from framehaul_client.access import Access, is_local
from framehaul_client.core.printable import printable
from framehaul_client.core.session_config import SCHEME
from framehaul_client.errors import ServerUnavailable

# A stalled stream buffers about the lookahead and one message. On a long link the lookahead also caps a stream's rate:
# 8 MiB in each round trip.
DEFAULT_LOOKAHEAD_BYTES: Final = 8 << 20
_MAX_FRAME_BYTES: Final = 4 << 20
_KEEPALIVE_MS: Final = 10_000
_PING_TIMEOUT_MS: Final = 5_000
_RECONNECT_MS: Final = (100, 2_000)
_PROBE_TIMEOUT_S: Final = 0.5
_PROXY_VARIABLES: Final = ("grpc_proxy", "https_proxy", "http_proxy")  # as gRPC looks for them

# What gRPC says when a handshake fails, and what to do about it.
_ADVICE: Final = (
    ("CERTIFICATE_VERIFY_FAILED", "the server's certificate isn't trusted: name its authority with --ca"),
    ("Hostname Verification", "the server's certificate is for another name: say which with --tls-server-name"),
    ("WRONG_VERSION_NUMBER", "the server doesn't speak TLS: leave --tls out, if it may be so"),
)


def channel_options(lookahead_bytes: int = DEFAULT_LOOKAHEAD_BYTES) -> list[tuple[str, int]]:
    """Return the channel's options; docs/benchmarks.md ("Transport") has the measurements behind them."""
    return [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        # The bandwidth probe overrides the lookahead: with several stalled streams, the receive window grows without
        # limit.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", lookahead_bytes),
        ("grpc.http2.max_frame_size", _MAX_FRAME_BYTES),
        # keepalive_timeout_ms below a minute has no effect in grpc 1.85: ping_timeout_ms decides.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
        # A lost session itself decides when to retry.
        ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS[0]),
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS[1]),
        # Otherwise all of a process's channels to one server share one connection.
        ("grpc.use_local_subchannel_pool", 1),
    ]


async def connect(
    target: str, timeout_s: float, lookahead_bytes: int, access: Access, *, fail_fast: bool = False
) -> grpc.aio.Channel:
    """Open a channel to `target`, ready for calls; wait for a server that is still starting, unless `fail_fast`.

    Raises:
        InvalidOption: a file that `access` names can't be read.
        ServerUnavailable: none answered within `timeout_s`, or to the first attempt.

    Cancellation: closes the channel.
    """
    options: list[tuple[str, str | int]] = [*channel_options(lookahead_bytes)]
    if access.server_name:
        options.append(("grpc.ssl_target_name_override", access.server_name))
    if is_local(target):
        options.append(("grpc.enable_http_proxy", 0))  # traffic for this machine stays on it
    credentials = access.credentials()
    if credentials is None:
        channel = grpc.aio.insecure_channel(target, options=options)
    else:
        channel = grpc.aio.secure_channel(target, credentials, options=options)
    try:
        await asyncio.wait_for(_first_attempt(channel) if fail_fast else channel.channel_ready(), timeout_s)
    except TimeoutError:
        reason = await _failure(channel, access) + proxy_words(target)
        await channel.close()
        raise ServerUnavailable(f"{target}: no server answered within {timeout_s:g} s ({reason})") from None
    except BaseException:
        await channel.close()
        raise
    return channel


async def _first_attempt(channel: grpc.aio.Channel) -> None:
    """Wait for a connection.

    Raises:
        TimeoutError: the first attempt failed.
    """
    while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            raise TimeoutError
        await channel.wait_for_state_change(state)


async def _failure(channel: grpc.aio.Channel, access: Access) -> str:
    """Ask gRPC why it isn't connected; only a failing call tells."""
    probe: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{wire.SERVICE}/Locate")
    try:
        await probe(b"", timeout=_PROBE_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return "the address takes connections, but nothing there speaks gRPC"
        return _explain(printable(error.details() or "no reason given"), access)
    return "it answers now"


def proxy_words(target: str) -> str:
    """Name the proxy that gRPC's connections to `target` go through, if they do."""
    variable = next((name for name in _PROXY_VARIABLES if os.environ.get(name)), None)
    host = SCHEME.sub("", target).rpartition(":")[0]
    if variable is None or is_local(target) or target.startswith("ip") or proxy_bypass(host):
        return ""
    return f"; through the proxy of ${variable}, unless no_proxy={host} is set"


def _explain(details: str, access: Access) -> str:
    """Say what to do, or cut gRPC's chain of wrappers down to the last cause: `... connect: Connection refused`."""
    for words, advice in _ADVICE:
        if words in details:
            return advice
    if details.endswith("Socket closed"):
        wanted = "a client's certificate: --cert and --key" if access.uses_tls else "TLS: --tls"
        return f"it hung up at once; perhaps it wants {wanted}"
    for separator in (" connect: ", "last error: "):
        _, found, cause = details.rpartition(separator)
        if found:
            return cause
    return details
