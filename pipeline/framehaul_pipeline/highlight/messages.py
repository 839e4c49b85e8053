"""Every message between server and a film's reader: small typed values over a socketpair, MessagePack-encoded.

Pure. Pixels stay in sample slots, which both map.
"""

from __future__ import annotations

from typing import Final

import msgspec

from framehaul.formats import PixelFormat

MAX_MESSAGE_BYTES: Final = 128 << 10


class ReaderSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader process is started with; its descriptors are those of the socket, the ring, film and pictures."""

    connection_fd: int
    ring_fd: int
    film_fd: int
    pictures_fd: int
    num_slots: int
    slot_bytes: int
    side: int
    """Of the square that frames are scaled to."""
    batch_frames: int
    max_pixels: int
    """Of a film's or a picture's own."""
    max_seconds: float
    """Of a film."""
    processor_seconds: int
    """For this process."""
    memory_bytes: int
    """Address space of this process."""


# Server to reader


class Probe(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Say what the film is: the answer is `FilmInfo`."""


class ReadPictures(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Put the pictures, each in all these sizes, into one slot."""

    ends: tuple[int, ...]
    """Where each ends in the pictures' file."""
    sizes: tuple[int, ...]


class Scan(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Put samples of the film into slots: what is shown at each of a row of moments."""

    start: float
    """Moments from here on,"""
    end: float
    """and before this one."""
    per_second: float
    keys_alone: bool = False
    """Key frames, each at its own moment, whatever the row is: other frames aren't decoded."""


class ReadFrames(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Put every frame shown in a part of the film into slots."""

    start: float
    end: float
    width: int
    """Of a frame in the slot."""
    height: int
    left: int
    """Where it lies in the upright film's frame."""
    top: int
    pixel_format: PixelFormat
    num_frames: int


class ReadRuns(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Put the frames that maps are made of into slots, run by run: see `runs`. Frames are counted at an even rate."""

    first: int
    """Frame that the first map is of;"""
    num_maps: int
    every: int
    """frames from there on, each map is of another one."""
    rate_numerator: int
    rate_denominator: int
    most_frames: int
    """Of a run."""
    width: int
    """Of a frame in the slot."""
    height: int


class Slot(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The answer to `NeedSlot`."""

    slot: int


# Reader to server


class FilmInfo(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a film is. Times are seconds from its first frame."""

    duration: float
    """0: the file doesn't say."""
    width: int
    """Upright, with square pixels."""
    height: int
    rate_numerator: int
    rate_denominator: int
    seekable: bool
    key_times: tuple[float, ...]
    """Of key frames that the file's index has."""


class NeedSlot(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Something is to be put into a slot."""


class Filled(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The slot given last is the server's again. Behind a batch of samples lie their histograms."""

    times: tuple[float, ...]
    """Of each frame; of a run, those that maps are of."""


class Done(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The job is done."""

    processor_seconds: float
    """That it took."""
    end: float
    """Of the last frame that was seen; 0: none was."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The job can't be done: what is wrong with what the client gave."""

    field: str
    value: str
    allowed: str


ToReader = Probe | ReadPictures | Scan | ReadFrames | ReadRuns | Slot
FromReader = FilmInfo | NeedSlot | Filled | Done | Refused

encode: Final = msgspec.msgpack.Encoder().encode
decode_to_reader: Final = msgspec.msgpack.Decoder(ToReader).decode
decode_from_reader: Final = msgspec.msgpack.Decoder(FromReader).decode
