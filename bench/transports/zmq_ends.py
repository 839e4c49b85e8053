"""ZeroMQ over TCP."""

from __future__ import annotations

from typing import Final

import zmq

from bench.transports.base import HOST, REQUEST, Announce, Meter, Source
from framehaul.allocator import tune_allocator

_ZMQ_WAITING: Final = 4


def serve_zmq(announce: Announce) -> None:
    """`send(copy=False)` of each message."""
    tune_allocator()
    source = Source()
    with zmq.Context() as context, context.socket(zmq.DEALER) as endpoint:
        endpoint.set_hwm(_ZMQ_WAITING)
        port = endpoint.bind_to_random_port(f"tcp://{HOST}")
        announce(f"{HOST}:{port}")
        while True:
            size, count = REQUEST.unpack(endpoint.recv())
            for payload in source.payloads(size, count):
                endpoint.send(payload, copy=False)


async def fetch_zmq(address: str, size: int, count: int) -> Meter:
    """`recv(copy=False)` of each message."""
    tune_allocator()
    meter = Meter()
    with zmq.Context() as context, context.socket(zmq.DEALER) as endpoint:
        endpoint.set_hwm(_ZMQ_WAITING)
        endpoint.connect(f"tcp://{address}")
        endpoint.send(REQUEST.pack(size, count))
        for _ in range(count):
            message = endpoint.recv(copy=False)
            meter.take(message.buffer)
    return meter
