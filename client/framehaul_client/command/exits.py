"""What the command line's exit codes mean; pure."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from framehaul_client import errors


class Exit(IntEnum):
    """Exit codes; scripts may rely on them."""

    OK = 0
    FAULT = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    STREAM = 5
    OUTPUT = 6
    GAVE_UP = 7
    INTERRUPTED = 130
    READER_GONE = 141
    TERMINATED = 143


MEANINGS: Final = {
    Exit.OK: "done",
    Exit.FAULT: "a fault in this program: please report it, with --debug",
    Exit.USAGE: "wrong options, a bad latents file, or a request that the server calls invalid",
    Exit.UNREACHABLE: "no server answers at the target, or it is shutting down",
    Exit.REFUSED: "the server has no room now: try again later",
    Exit.STREAM: "the session broke: connection lost, server error, or damaged frames",
    Exit.OUTPUT: "the output can't be written: folder, disk or encoder",
    Exit.GAVE_UP: "the session was lost and couldn't be taken up again within --retry-for; a kept part is named",
    Exit.INTERRUPTED: "interrupted (Ctrl-C)",
    Exit.READER_GONE: "the reader of a pipe has gone",
    Exit.TERMINATED: "terminated (SIGTERM, or its terminal closed)",
}

AGAIN: Final = frozenset({Exit.UNREACHABLE, Exit.REFUSED, Exit.STREAM, Exit.GAVE_UP})
"""The same command may succeed later; for all else something must be changed first, or was meant to end it."""

# The first class that fits counts: subclasses come before their bases.
_EXITS: Final[tuple[tuple[type[errors.FramehaulError], Exit], ...]] = (
    (errors.InvalidRequest, Exit.USAGE),
    (errors.LatentsFileError, Exit.USAGE),
    (errors.InvalidOption, Exit.USAGE),
    (errors.GaveUp, Exit.GAVE_UP),
    (errors.ConnectionLost, Exit.STREAM),
    (errors.ServerUnavailable, Exit.UNREACHABLE),
    (errors.Refused, Exit.REFUSED),
    (errors.StreamFailed, Exit.STREAM),
    (errors.OutputClosed, Exit.READER_GONE),
    (errors.OutputError, Exit.OUTPUT),
)


def exit_code(error: errors.FramehaulError) -> Exit:
    """The exit code for `error`."""
    return next((code for kind, code in _EXITS if isinstance(error, kind)), Exit.FAULT)
