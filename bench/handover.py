"""Hand-over of 12 MB from the worker's process to the server's: our ring, our channel, our event loop.

`python -m bench.handover [--count 500] [--rounds 5] [--out DIR]`. From the moment before the worker's end sends
`Published` to the moment the server's end has leased the slot and touched it; both read CLOCK_MONOTONIC, which all
processes of a machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np
import uvloop

from bench import ROOT
from bench.harness import Results, percentile, run_rounds, table
from bench.processes import end_process, python_environment
from framehaul import wire
from framehaul.allocator import tune_allocator
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.link.channel import ServerChannel, WorkerChannel
from framehaul_pipeline.link.messages import ChunkTimes, Configure, Published, SlotReturned, ToServer
from framehaul_pipeline.rings.ring import PAGE_BYTES, Ring, SlotHeader
from framehaul_pipeline.rings.slots import LeaseTable, SlotTable

PAYLOAD_BYTES: Final = 12_000_000
NUM_SLOTS: Final = 8
PACE_S: Final = 0.002
"""Between hand-overs: the next one starts when the last one is over, as with a decoder that takes a while."""
CASES: Final = {
    "": "woken and leased",
    "pages": "and every page read",
    "message": "and copied into a message",
}


def work(fd: int, count: int) -> None:
    """The worker's end: stamp, publish, wait until the slot is back."""
    channel = WorkerChannel(socket.socket(fileno=fd))
    configured = channel.receive_configure()
    assert configured is not None
    configure, (ring_fd,) = configured
    ring = Ring(ring_fd, num_slots=configure.config.num_slots, slot_bytes=PAYLOAD_BYTES)
    slots = SlotTable(ring.num_slots)
    memory = np.frombuffer(ring.memory, np.uint8)
    memory[::PAGE_BYTES] = 1
    for index in range(count):
        slot, generation = slots.acquire()
        ring.write_header(slot, SlotHeader(generation, 1, index, 1, PAYLOAD_BYTES))
        slots.publish(slot, generation)
        time.sleep(PACE_S)
        channel.send(
            Published(
                session=1,
                slot=slot,
                generation=generation,
                first_latent=index,
                chunks=(1,),
                first_frame=index,
                frame_bytes=PAYLOAD_BYTES,
                crc32c=(0,),
                times=ChunkTimes(copied_ns=time.monotonic_ns()),
            )
        )
        returned = channel.receive()
        if returned is None:
            return
        assert isinstance(returned, SlotReturned)
        slots.give_back(returned.slot, returned.generation)


class Reader:
    """The server's end."""

    def __init__(self, ring: Ring, case: str, connection: socket.socket) -> None:
        """Read messages from `connection` until the worker is gone."""
        self._ring, self._case = ring, case
        self._leases = LeaseTable(ring.num_slots)
        self._memory = np.frombuffer(ring.memory, np.uint8)
        self._memory[::PAGE_BYTES].sum()
        self.done = asyncio.Event()
        self.delays_us: list[float] = []
        self.channel = ServerChannel(connection, on_message=self._on_message, on_eof=self.done.set)

    def _on_message(self, message: ToServer) -> None:
        assert isinstance(message, Published)
        self._leases.lease(message.slot, message.generation)
        offset = self._ring.payload_offset(message.slot)
        if self._case == "pages":
            self._memory[offset : offset + PAYLOAD_BYTES : PAGE_BYTES].sum()
        elif self._case == "message":
            payload = self._memory[offset : offset + PAYLOAD_BYTES].data
            wire.join(pb.StreamResponse(frames=pb.Frames(num_frames=1)), (payload,))
        self.delays_us.append((time.monotonic_ns() - message.times.copied_ns) / 1e3)
        generation = self._leases.give_back(message.slot)
        self.channel.send(SlotReturned(slot=message.slot, generation=generation))


def _spawn(command: list[str], fd: int) -> subprocess.Popen[str]:
    return subprocess.Popen(command, pass_fds=(fd,), cwd=ROOT, env=python_environment(), text=True)


async def read(case: str, count: int) -> list[float]:
    """Run both ends; microseconds of each hand-over."""
    ring = Ring.create("bench", num_slots=NUM_SLOTS, slot_bytes=PAYLOAD_BYTES)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", "bench.handover", "--worker", str(theirs.fileno()), "--count", str(count)]
        process = _spawn(command, theirs.fileno())
    try:
        reader = Reader(ring, case, ours)
        configure = Configure(epoch=1, config=WorkerConfig(device="cpu", num_slots=NUM_SLOTS))
        reader.channel.send_configure(configure, [ring.fd])
        await reader.done.wait()
        return reader.delays_us
    finally:
        end_process(process)


def measure(case: str, count: int) -> dict[str, float]:
    """One round of one case; the first tenth is warm-up."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        delays_us = runner.run(read(case, count))[count // 10 :]
    return {"p50_us": percentile(delays_us, 50), "p99_us": percentile(delays_us, 99)}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        work(given.worker, given.count)
        return
    tune_allocator()
    results = Results(name="handover", title="Hand-over")
    found = run_rounds(tuple(CASES), given.rounds, lambda case: measure(case, given.count))
    results.figures = {title: found[case] for case, title in CASES.items()}
    results.say(
        f"{given.count} hand-overs of {PAYLOAD_BYTES / 1e6:g} MB a round, {PACE_S * 1e3:g} ms apart; medians of "
        f"{given.rounds} rounds, order rotated. Two processes, the product's ring, slot tables, channel and loop."
    )
    heads = ["from publishing to", "p50, ms", "p99, ms", "± of p50"]
    rows = (
        [title, *(f"{found[case][name] / 1e3:.3f}" for name in ("p50_us", "p99_us")), f"{found[case]['spread']:.2f}x"]
        for case, title in CASES.items()
    )
    results.say(table(heads, rows))
    results.write(given.out)


if __name__ == "__main__":
    main()
