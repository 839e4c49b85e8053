import asyncio
import os
import socket

import pytest

from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.link.channel import ServerChannel, WorkerChannel
from framehaul_pipeline.link.messages import Configure, LatentReady, SessionEnded, ToServer
from framehaul_pipeline.models.model import TINY

CONFIGURE = Configure(epoch=1, config=WorkerConfig(device="cpu", models=(TINY,), warm_up=((64, 32),)))


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def listening() -> tuple[ServerChannel, socket.socket, list[ToServer], asyncio.Event]:
    """The server's end, the other one's socket, what the server hears, and whether it has heard the end."""
    ours, theirs = pair()
    received: list[ToServer] = []
    gone = asyncio.Event()
    return ServerChannel(ours, on_message=received.append, on_eof=gone.set), theirs, received, gone


@pytest.mark.asyncio
async def test_messages_arrive_whole_in_order_and_the_end_is_seen() -> None:
    """However many there are: what the socket can't take waits, and nothing is sent to a worker that is gone."""
    server, theirs, received, gone = listening()
    worker = WorkerChannel(theirs)
    sent = [LatentReady(session=number, slot=0, generation=1) for number in range(5000)]

    def work() -> list[object]:
        got = [worker.receive() for _ in sent]
        for number in range(3):
            worker.send(SessionEnded(session=number, num_frames=0))
        worker.close()
        return list(got)

    for message in sent:
        server.send(message)
    assert await asyncio.to_thread(work) == sent
    await gone.wait()
    assert received == [SessionEnded(session=number, num_frames=0) for number in range(3)]
    server.send(sent[0])
    server.close()


@pytest.mark.asyncio
async def test_what_a_worker_said_before_its_death_is_heard() -> None:
    """Also where it died with messages unread: then the socket's first answer is an error."""
    server, theirs, received, gone = listening()
    server.send(LatentReady(session=1, slot=0, generation=1))
    worker = WorkerChannel(theirs)
    for number in range(3):
        worker.send(SessionEnded(session=number, num_frames=0))
    worker.close()
    await gone.wait()
    assert received == [SessionEnded(session=number, num_frames=0) for number in range(3)]


@pytest.mark.asyncio
async def test_descriptors_travel_with_the_first_message() -> None:
    """The worker gets descriptors of its own for the same files."""
    ours, theirs = pair()
    server = ServerChannel(ours, on_message=lambda message: None, on_eof=lambda: None)
    worker = WorkerChannel(theirs)
    read_end, write_end = os.pipe()
    server.send_configure(CONFIGURE, [read_end, write_end])
    received = worker.receive_configure()
    assert received is not None
    message, fds = received
    assert message == CONFIGURE
    os.write(fds[1], b"through")
    assert os.read(read_end, 7) == b"through"
    for fd in (read_end, write_end, *fds):
        os.close(fd)
    server.close()
    worker.close()


@pytest.mark.asyncio
async def test_a_first_message_of_another_kind_is_refused() -> None:
    """And a server that is gone before it spoke is no error."""
    ours, theirs = pair()
    server = ServerChannel(ours, on_message=lambda message: None, on_eof=lambda: None)
    worker = WorkerChannel(theirs)
    server.send(LatentReady(session=1, slot=0, generation=1))
    with pytest.raises(ValueError, match="first message is LatentReady: must be Configure"):
        worker.receive_configure()
    server.close()
    assert worker.receive_configure() is None
    assert worker.receive() is None
    worker.send(SessionEnded(session=1, num_frames=0))
    worker.close()
