"""The proxy itself: what it lets through, and how it breaks."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.proxy import Direction, FaultProxy, MessageCounter

pytestmark = pytest.mark.asyncio


def data_frame(payload: bytes, stream: int = 1, kind: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + struct.pack(">I", stream) + payload


def message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


@asynccontextmanager
async def echo() -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1024):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"{host}:{port}"
    server.close()


async def connect(proxy: FaultProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = proxy.target.rpartition(":")
    return await asyncio.open_connection(host, int(port))


@pytest.mark.parametrize("piece", [1, 3, 1000])
async def test_messages_are_counted_however_the_bytes_are_cut(piece: int) -> None:
    """Messages that span frames, share frames, and lie between other frames and on other streams."""
    first, second, third = message(b"x" * 20), message(b""), message(b"y" * 5)
    stream = (
        data_frame(b"settings", 0, kind=4)
        + data_frame(first[:3])
        + data_frame(message(b"other"), 3)
        + data_frame(first[3:] + second)
        + data_frame(third)
    )
    counter = MessageCounter(Direction.TO_CLIENT)
    found = []
    for start in range(0, len(stream), piece):
        found += [start + offset for offset in counter.starts(stream[start : start + piece])]
    assert len(found) == 4
    assert found == sorted(found)
    assert stream[found[0] : found[0] + 5] == b"other"
    assert stream[found[3] :] == b"yyyyy"


async def test_bytes_pass_both_ways_and_a_cut_is_a_reset() -> None:
    """Unharmed until the cut, byte by byte too; then the client sees a reset and not an orderly end."""
    async with echo() as server, FaultProxy(server) as proxy:
        proxy.piece_bytes = 1
        reader, writer = await connect(proxy)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        assert proxy.num_cuts == 1


async def test_a_frozen_link_passes_nothing_and_stays_open() -> None:
    """Half-open: no byte, no end; a new connection works."""
    async with echo() as server, FaultProxy(server) as proxy:
        reader, writer = await connect(proxy)
        writer.write(b"a")
        await reader.readexactly(1)
        proxy.freeze()
        writer.write(b"b")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        other_reader, other_writer = await connect(proxy)
        other_writer.write(b"c")
        assert await other_reader.readexactly(1) == b"c"
        other_writer.close()
        writer.close()


async def test_a_link_is_cut_right_before_a_chosen_message() -> None:
    """What came before it arrives, and not a byte of the message."""
    async with echo() as server, FaultProxy(server) as proxy:
        proxy.cut_at(Direction.TO_SERVER, 1)
        reader, writer = await connect(proxy)
        head = b"P" * 24 + data_frame(message(b"first"))
        writer.write(head + data_frame(message(b"second")))
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(len(head) + 20)
        writer.close()
        assert proxy.num_messages[Direction.TO_SERVER] == 2


@pytest.mark.parametrize("piece", [1, 1000])
async def test_a_link_is_cut_after_a_chosen_byte(piece: int) -> None:
    """Counted from now on; the next connection is whole again."""
    async with echo() as server, FaultProxy(server) as proxy:
        proxy.piece_bytes = piece
        reader, writer = await connect(proxy)
        writer.write(b"unharmed")
        assert await reader.readexactly(8) == b"unharmed"
        proxy.cut_after(Direction.TO_SERVER, 3)
        writer.write(b"passes")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(4)
        writer.close()
        assert (proxy.num_cuts, proxy.num_bytes[Direction.TO_SERVER]) == (1, 11)
        proxy.cut_after(Direction.TO_SERVER, 3)
        proxy.forget_plans()
        reader, writer = await connect(proxy)
        writer.write(b"passes")
        assert await reader.readexactly(6) == b"passes"
        writer.close()


async def test_refusing_resets_new_connections() -> None:
    """A server that is down, while its address is there."""
    async with echo() as server, FaultProxy(server) as proxy:
        proxy.refuse = True
        reader, writer = await connect(proxy)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
