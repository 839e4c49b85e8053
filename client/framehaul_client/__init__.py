"""The reference client: streams latents to a frame server and turns the frames into files or arrays."""

from framehaul_client.access import Access
from framehaul_client.client import FrameClient
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
from framehaul_client.frames import FrameBatch, FrameLayout, PixelFormat
from framehaul_client.info import Location, Model, ServerInfo
from framehaul_client.latents import LatentType
from framehaul_client.latents_file import LatentsFile
from framehaul_client.opening import Opened
from framehaul_client.session import Session
from framehaul_client.statistics import SessionStatistics

__all__ = [
    "Access",
    "ConnectionLost",
    "DataLoss",
    "FrameBatch",
    "FrameClient",
    "FrameLayout",
    "FramehaulError",
    "GaveUp",
    "InvalidLatents",
    "InvalidOption",
    "InvalidRequest",
    "LatentType",
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
    "ProtocolError",
    "Refused",
    "ServerInfo",
    "ServerUnavailable",
    "Session",
    "SessionDamaged",
    "SessionStatistics",
    "StreamFailed",
    "Unsupported",
]
