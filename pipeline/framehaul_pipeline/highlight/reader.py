"""A film's reader: a process that decodes what a stranger sent, and can do little else.

Started by the server with descriptors and limits, `python -m framehaul_pipeline.highlight.reader SETUP`. It knows no
name of a file, has no GPU, and ends with the server.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from framehaul_pipeline import core_dumps
from framehaul_pipeline.config import HISTOGRAM_BYTES
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.highlight.messages import (
    MAX_MESSAGE_BYTES,
    Done,
    Filled,
    FromReader,
    NeedSlot,
    Probe,
    ReaderSetup,
    ReadFrames,
    ReadPictures,
    ReadRuns,
    Refused,
    Scan,
    Slot,
    ToReader,
    decode_to_reader,
    encode,
)
from framehaul_pipeline.highlight.rank import histogram
from framehaul_pipeline.highlight.sample import Film, OwnPosition, read_picture
from framehaul_pipeline.orphans import end_with_parent
from framehaul_pipeline.rings.ring import Ring

_OPEN_FILES = 64


class _ServerGone(Exception):
    """Nobody is there any more to read for."""


class Reader:
    """Does one job after the other."""

    def __init__(self, setup: ReaderSetup) -> None:
        """Map the ring; the film is opened by the first job that needs it."""
        self._setup = setup
        self._socket = socket.socket(fileno=setup.connection_fd)
        self._ring = Ring(setup.ring_fd, num_slots=setup.num_slots, slot_bytes=setup.slot_bytes)
        self._opened: Film | None = None

    def run(self) -> None:
        """Do what the server says until it goes."""
        while (job := self._receive()) is not None:
            began = time.process_time()
            try:
                end = self._do(job)
            except InvalidInput as error:
                self._send(Refused(field=error.field, value=str(error.value), allowed=error.allowed))
            except MemoryError:
                allowed = f"one that can be read in {self._setup.memory_bytes >> 20} MiB of memory"
                self._send(Refused(field="video", value="it", allowed=allowed))
            else:
                self._send(Done(processor_seconds=time.process_time() - began, end=end))

    def _do(self, job: ToReader) -> float:
        match job:
            case Probe():
                self._send(self._film().info())
            case ReadPictures():
                self._read_pictures(job)
            case Scan():
                return self._scan(job)
            case ReadFrames():
                return self._read_frames(job)
            case ReadRuns():
                rate = job.rate_numerator / job.rate_denominator
                for run, frames in self._film().runs(job):
                    self._fill(self._slot(), frames, tuple(number / rate for number in run.maps))
            case Slot():
                raise ValueError("a slot came that nobody asked for")
        return 0.0

    def _film(self) -> Film:
        if self._opened is None:
            file, limits = OwnPosition(self._setup.film_fd), self._setup
            self._opened = Film(file, "it", max_pixels=limits.max_pixels, max_seconds=limits.max_seconds)
        return self._opened

    def _read_pictures(self, job: ReadPictures) -> None:
        begin, parts = 0, []
        for index, end in enumerate(job.ends):
            content = os.pread(self._setup.pictures_fd, end - begin, begin)
            parts += read_picture(content, f"open.images[{index}]", job.sizes, self._setup.max_pixels)
            begin = end
        self._fill(self._slot(), parts, ())

    def _scan(self, job: Scan) -> float:
        side, end = self._setup.side, 0.0
        batch: list[float] = []
        slot = -1
        frame_bytes = side * side * 3
        for when, pixels in self._film().samples(job, side):
            if not batch:
                slot = self._slot()
            with self._ring.payload(slot) as payload:
                target = np.frombuffer(payload, np.uint8, frame_bytes, len(batch) * frame_bytes)
                target.reshape(side, side, 3)[:] = pixels
                at = self._setup.batch_frames * frame_bytes + len(batch) * HISTOGRAM_BYTES
                np.frombuffer(payload, np.float32, HISTOGRAM_BYTES // 4, at)[:] = histogram(
                    np.ascontiguousarray(pixels)
                )
                del target
            batch.append(when)
            end = when
            if len(batch) == self._setup.batch_frames:
                self._send(Filled(times=tuple(batch)))
                batch = []
        if batch:
            self._send(Filled(times=tuple(batch)))
        return end

    def _read_frames(self, job: ReadFrames) -> float:
        frame_bytes = job.pixel_format.frame_bytes(job.height, job.width)
        fit = self._setup.slot_bytes // frame_bytes
        end = 0.0
        for batch in _batches(self._film().frames(job), fit):
            end = batch[-1][0]
            self._fill(self._slot(), [pixels for _, pixels in batch], tuple(when for when, _ in batch))
        return end

    def _fill(self, slot: int, parts: list[NDArray[np.uint8]], times: tuple[float, ...]) -> None:
        at = 0
        with self._ring.payload(slot) as payload:
            for part in parts:
                payload[at : at + part.nbytes] = np.ascontiguousarray(part).reshape(-1).data
                at += part.nbytes
        self._send(Filled(times=times))

    def _slot(self) -> int:
        self._send(NeedSlot())
        answer = self._receive()
        if answer is None:
            raise _ServerGone
        assert isinstance(answer, Slot), "the server answers what it was asked"
        return answer.slot

    def _send(self, message: FromReader) -> None:
        self._socket.sendall(encode(message))

    def _receive(self) -> ToReader | None:
        raw = self._socket.recv(MAX_MESSAGE_BYTES)
        return decode_to_reader(raw) if raw else None


def _batches(
    frames: Iterator[tuple[float, NDArray[np.uint8]]], most: int
) -> Iterator[list[tuple[float, NDArray[np.uint8]]]]:
    batch: list[tuple[float, NDArray[np.uint8]]] = []
    for each in frames:
        batch.append(each)
        if len(batch) == most:
            yield batch
            batch = []
    if batch:
        yield batch


def main() -> int:
    """Run the reader; gives its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    core_dumps.forbid()
    setup = msgspec.json.decode(sys.argv[1], type=ReaderSetup)
    for what, most in (
        (resource.RLIMIT_AS, setup.memory_bytes),
        (resource.RLIMIT_CPU, setup.processor_seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        resource.setrlimit(what, (most, most))
    try:
        Reader(setup).run()
    except (_ServerGone, BrokenPipeError, ConnectionResetError):
        return 0
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main())
