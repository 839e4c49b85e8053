"""The reference client: streams latents to a frame server and turns the frames into files or arrays."""

import os

# gRPC's documented default. Without it a failed handshake writes a line for each attempt; it is read at the import.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from framehaul.formats import LatentDtype, PixelFormat
from framehaul_client.access import Access
from framehaul_client.client import FrameClient
from framehaul_client.core.events import Event
from framehaul_client.core.frames import FrameBatch, FrameLayout
from framehaul_client.core.highlights import Excerpt, ExcerptFrames, Progress, Query, Scores
from framehaul_client.core.info import HighlightInfo, Location, Model, ServerInfo
from framehaul_client.core.opening import Opened
from framehaul_client.core.statistics import SessionStatistics
from framehaul_client.errors import (
    ConnectionLost,
    DataLoss,
    FramehaulError,
    GaveUp,
    InvalidLatents,
    InvalidOption,
    InvalidRequest,
    LatentsFileError,
    NotAuthenticated,
    NotFound,
    OutputClosed,
    OutputError,
    ProtocolError,
    Refused,
    ServerUnavailable,
    SessionDamaged,
    StreamFailed,
    Unsupported,
)
from framehaul_client.highlight.request import Highlights
from framehaul_client.session import Session
from framehaul_client.source.latents_file import LatentsFile

if os.environ["GRPC_VERBOSITY"] == "ERROR":
    del os.environ["GRPC_VERBOSITY"]  # programs that this one starts, a server say, have defaults of their own

__all__ = [
    "Access",
    "ConnectionLost",
    "DataLoss",
    "Event",
    "Excerpt",
    "ExcerptFrames",
    "FrameBatch",
    "FrameClient",
    "FrameLayout",
    "FramehaulError",
    "GaveUp",
    "HighlightInfo",
    "Highlights",
    "InvalidLatents",
    "InvalidOption",
    "InvalidRequest",
    "LatentDtype",
    "LatentsFile",
    "LatentsFileError",
    "Location",
    "Model",
    "NotAuthenticated",
    "NotFound",
    "Opened",
    "OutputClosed",
    "OutputError",
    "PixelFormat",
    "Progress",
    "ProtocolError",
    "Query",
    "Refused",
    "Scores",
    "ServerInfo",
    "ServerUnavailable",
    "Session",
    "SessionDamaged",
    "SessionStatistics",
    "StreamFailed",
    "Unsupported",
]
