"""What ghz does in `make load`: the scenarios, and the file of real latents that one of them sends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from framehaul.v1 import frames_pb2 as pb
from framehaul_client.command.stream import SAMPLE
from framehaul_client.source.latents_file import LatentsFile

_SERVICE: Final = "framehaul.v1.FrameService"
_OPEN: Final = {"model": "tiny", "pixel_format": "PIXEL_FORMAT_YUV420P"}
LATENTS: Final = "latents.bin"
"""Name of the file that `write_latents` makes, in the folder of the reports."""
_CROP: Final = 8
"""Latent units: 64x64 pixels are cheap to decode on a CPU."""
_FILE_LATENTS: Final = 3
_PACED_MESSAGES: Final = 24
_PACE_MS: Final = 166
"""One latent, four frames: 24 frames a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One run of ghz."""

    name: str
    options: tuple[str, ...]
    allowed: tuple[str, ...] = ("OK",)
    needed: tuple[str, ...] = ("OK",)
    """Statuses without which the scenario showed nothing."""
    least: int = 1
    """Calls that must have been made."""
    paced: tuple[int, int] | None = None
    """Messages of a call, and milliseconds between two of them."""


def _call(method: str, *options: str, message: object = None) -> tuple[str, ...]:
    given = () if message is None else ("-d", json.dumps(message))
    return ("--call", f"{_SERVICE}.{method}", *options, *given)


def _synthetic(num_latents: int) -> dict[str, object]:
    return {"num_latents": num_latents, "height": 64, "width": 64, "seed": 1}


_CLIP: Final = {"open": _OPEN, "synthetic": _synthetic(1)}

SCENARIOS: Final = (
    Scenario(
        name="locate",
        options=_call("Locate", "-c", "16", "--connections", "4", "-n", "5000", message={}),
        least=5000,
    ),
    Scenario(
        name="health",
        options=(
            *("--call", "grpc.health.v1.Health.Check", "-c", "16", "--connections", "4", "-n", "2000"),
            *("-d", json.dumps({"service": _SERVICE})),
        ),
        least=2000,
    ),
    Scenario(
        name="render-capacity",
        options=_call("Render", "-c", "8", "--connections", "8", "-n", "200", "-t", "30s", message=_CLIP),
        least=200,
    ),
    Scenario(
        name="stream-capacity",
        options=_call(
            *("Stream", "-c", "8", "--connections", "8", "-n", "24", "-t", "60s", "--stream-call-count", "16"),
            message=_CLIP,
        ),
        least=24,
    ),
    Scenario(
        name="stream-real-latents",
        options=_call(
            *("Stream", "-c", "4", "--connections", "4", "-n", "32", "-t", "60s", "-B", LATENTS),
            *("--stream-call-count", "6"),
        ),
        least=32,
    ),
    Scenario(
        name="stream-paced-24fps",
        options=_call(
            *("Stream", "-c", "4", "--connections", "4", "-n", "4", "-t", "30s"),
            *("--stream-interval", f"{_PACE_MS}ms", "--stream-call-count", str(_PACED_MESSAGES)),
            message=_CLIP,
        ),
        least=4,
        paced=(_PACED_MESSAGES, _PACE_MS),
    ),
    Scenario(
        name="stream-admission",
        options=_call(
            *("Stream", "--concurrency-schedule", "step", "--concurrency-start", "2", "--concurrency-step", "4"),
            *("--concurrency-end", "18", "--concurrency-step-duration", "2s", "--connections", "2"),
            *("-z", "10s", "--duration-stop", "wait", "-t", "30s", "--stream-call-count", "4"),
            message=_CLIP,
        ),
        allowed=("OK", "ResourceExhausted"),
        needed=("OK", "ResourceExhausted"),
    ),
)


def lateness_ms(call_ms: float, *, num_messages: int, interval_ms: float) -> float:
    """How much longer a paced call took than its pace alone: until the last message's frames were there."""
    return call_ms - (num_messages - 1) * interval_ms


def write_latents(path: Path) -> None:
    """Write a stream of requests with the sample clip's latents, each message behind its length as a varint.

    Every message repeats the same `open`, so that it may be sent again from its start.
    """
    with LatentsFile(SAMPLE) as file:
        latents = [np.ascontiguousarray(latent[:, :_CROP, :_CROP]) for latent in list(file)[:_FILE_LATENTS]]
    channels, height, width = latents[0].shape
    geometry = pb.LatentGeometry(channels=channels, height=height, width=width)
    opening = pb.Open(model="tiny", geometry=geometry, dtype=pb.DATA_TYPE_FLOAT16, pixel_format=pb.PIXEL_FORMAT_YUV420P)
    with path.open("wb") as out:
        for latent in latents:
            message = pb.StreamRequest(open=opening, num_latents=1, latents=latent.tobytes()).SerializeToString()
            out.write(_varint(len(message)) + message)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
