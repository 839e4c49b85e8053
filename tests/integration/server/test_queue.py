"""Sessions that wait for a place at a real server."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.support.call import Call, details
from tests.support.clips import EXPLICIT, latents, opening
from tests.support.server_process import SAME_CHUNKS, ServerProcess, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One place, two that wait, and a MiB for what they bring along."""
    log = tmp_path_factory.mktemp("server") / "log"
    options = ("--max-sessions", "1", "--max-queued", "2", "--max-queued-mib", "1", *SAME_CHUNKS)
    with running_server(log, *options) as running:
        yield running


def hold(client: Call) -> None:
    """Take the only place."""
    client.send(open=EXPLICIT)
    assert client.read().HasField("opened")


def position(client: Call) -> int:
    """The next response is a place in the queue."""
    header = client.read()
    assert header.HasField("queued")
    return int(header.queued.position)


def test_those_who_wait_hear_their_positions_and_are_served_in_order(server: ServerProcess) -> None:
    """One more is refused with a time to wait; the clips that came with the first message come out whole."""
    with server.channel() as channel, Call(channel) as holder, Call(channel) as first, Call(channel) as second:
        hold(holder)
        for place, client in enumerate((first, second), start=1):
            client.send(latents(4), open=opening(), end_of_latents=True)
            assert position(client) == place
        assert (server.load().sessions, server.load().queued) == (1, 2)
        with Call(channel) as refused:
            refused.send(open=opening())
            with pytest.raises(grpc.RpcError) as caught:
                refused.read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details(caught.value) == "all 1 sessions of this server are in use, and all 2 places of its queue"
        metadata: Any = caught.value.trailing_metadata()
        trailers = dict(metadata)
        assert trailers["grpc-retry-pushback-ms"] == "1000"
        assert b"type.googleapis.com/google.rpc.RetryInfo" in trailers["grpc-status-details-bin"]
        holder.call.cancel()
        assert first.read().HasField("opened")
        assert position(second) == 1
        assert len(first.read_to_end()) == 16
        assert second.read().HasField("opened")
        assert second.read_to_end() == first.frames
    server.expect_idle()
    assert server.load().queued == 0
    waits = [ended["queued_s"] for ended in server.session_ends()]
    assert waits.count("-") == 2
    assert sum(float(seconds) > 0 for seconds in waits if seconds != "-") == 2


def test_what_a_queued_client_sends_on_comes_in_when_the_session_runs(server: ServerProcess) -> None:
    """It is not read before; a first message that the queue has no room for is refused."""
    num_latents = 12
    with server.channel() as channel, Call(channel) as holder, Call(channel) as client:
        hold(holder)
        client.send(latents(1), open=opening())
        assert position(client) == 1
        for _ in range(num_latents - 1):
            client.send(latents(1))
        client.half_close()
        with Call(channel) as large:
            large.send(bytes(1 << 20), open=opening())
            with pytest.raises(grpc.RpcError) as caught:
                large.read()
        assert "bytes of requests: no room for" in details(caught.value)
        holder.call.cancel()
        assert len(client.read_to_end()) == 4 * num_latents
    server.expect_idle()
