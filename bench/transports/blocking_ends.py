"""Blocking code: sockets as the ceiling of TCP, and shared memory where only a slot's index travels."""

from __future__ import annotations

import os
import socket
import tempfile
from typing import Final

import numpy as np

from bench.transports.base import HOST, REQUEST, Announce, Meter, Source
from framehaul_pipeline.rings.ring import PAGE_BYTES, Ring

_RING_BYTES: Final = 96 << 20
_SLOTS_AHEAD: Final = 4
_INDEX_BYTES: Final = 8


def serve_sockets(announce: Announce) -> None:
    """`sendall` of each message."""
    source = Source()
    with socket.create_server((HOST, 0)) as listener:
        announce(f"{HOST}:{listener.getsockname()[1]}")
        while True:
            connection, _ = listener.accept()
            with connection:
                size, count = REQUEST.unpack(_receive(connection, REQUEST.size))
                for payload in source.payloads(size, count):
                    connection.sendall(payload)


async def fetch_sockets(address: str, size: int, count: int) -> Meter:
    """`recv_into` one buffer, used again for each message."""
    meter = Meter()
    host, _, port = address.partition(":")
    view = memoryview(bytearray(size))
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(REQUEST.pack(size, count))
        for _ in range(count):
            received = 0
            while received < size:
                received += connection.recv_into(view[received:])
            meter.take(view)
    return meter


def serve_memory(announce: Announce) -> None:
    """Our ring: its descriptor goes over a unix socket once, then indices of slots that are filled already."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        path = os.path.join(folder, "socket")
        listener.bind(path)
        listener.listen()
        announce(path)
        while True:
            connection, _ = listener.accept()
            with connection:
                size, count = REQUEST.unpack(connection.recv(REQUEST.size))
                _hand_over(connection, size, count)


def _hand_over(connection: socket.socket, size: int, count: int) -> None:
    num_slots = _RING_BYTES // size
    ring = Ring.create("bench", num_slots=num_slots, slot_bytes=size)
    memory = np.frombuffer(ring.memory, np.uint8)
    memory[::PAGE_BYTES] = 1
    del memory
    socket.send_fds(connection, [b"ring"], [ring.fd])
    for index in range(count):
        if index >= _SLOTS_AHEAD:
            connection.recv(_INDEX_BYTES)
        connection.send((index % num_slots).to_bytes(_INDEX_BYTES, "little"))
    for _ in range(min(count, _SLOTS_AHEAD)):
        connection.recv(_INDEX_BYTES)
    ring.close()


async def fetch_memory(address: str, size: int, count: int) -> Meter:
    """Read one byte of every page, in place."""
    return _take_over(address, size, count, copy=False)


async def fetch_memory_copy(address: str, size: int, count: int) -> Meter:
    """Copy every message out."""
    return _take_over(address, size, count, copy=True)


def _take_over(address: str, size: int, count: int, *, copy: bool) -> Meter:
    meter = Meter()
    target = np.zeros(size, np.uint8)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(address)
        connection.send(REQUEST.pack(size, count))
        _, fds, _, _ = socket.recv_fds(connection, 16, 1)
        ring = Ring(fds[0], num_slots=_RING_BYTES // size, slot_bytes=size)
        memory = np.frombuffer(ring.memory, np.uint8)
        memory[::PAGE_BYTES].sum()  # map the pages: a long-lived reader has done so
        for _ in range(count):
            index = connection.recv(_INDEX_BYTES)
            offset = ring.payload_offset(int.from_bytes(index, "little"))
            payload = memory[offset : offset + size]
            if copy:
                np.copyto(target, payload)
            else:
                payload[::PAGE_BYTES].sum()
            meter.take(payload.data)
            connection.send(index)
        del payload, memory
        ring.close()
    return meter


def _receive(connection: socket.socket, num_bytes: int) -> bytes:
    received = b""
    while len(received) < num_bytes:
        received += connection.recv(num_bytes - len(received))
    return received
