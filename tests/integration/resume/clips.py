"""What is decoded, and what decodes it."""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from framehaul.v1 import frames_pb2 as pb
from tests.support.clips import CHANNELS, FRAMES_OF_A_LATENT, opening
from tests.support.server_process import ServerProcess

HISTORY_LATENTS = 4
_DTYPES: Final[dict[pb.DataType.ValueType, type[np.floating[Any]]]] = {
    pb.DATA_TYPE_FLOAT16: np.float16,
    pb.DATA_TYPE_FLOAT32: np.float32,
}


@dataclass
class Clip:
    """Latents, how they are to be decoded, and what comes of it."""

    name: str
    num_latents: int
    size: tuple[int, int]
    dtype: pb.DataType.ValueType
    pixel_format: pb.PixelFormat.ValueType
    frame_bytes: int
    frames: list[bytes] = field(default_factory=list)
    """Empty until a run that nothing disturbed has filled it."""

    def __post_init__(self) -> None:
        noise = np.random.default_rng(self.num_latents).standard_normal((self.num_latents, CHANNELS, *self.size))
        self.latents = [latent.tobytes() for latent in noise.astype(_DTYPES[self.dtype])]

    @property
    def num_frames(self) -> int:
        return FRAMES_OF_A_LATENT * self.num_latents

    def levels(self, pixels: bytes) -> "np.ndarray[Any, np.dtype[np.int32]]":
        wide = self.pixel_format == pb.PIXEL_FORMAT_YUV420P10LE
        return np.frombuffer(pixels, np.uint16 if wide else np.uint8).astype(np.int32)

    def open(self, window_frames: int, start_frame: int) -> pb.Open:
        """Responses hold three frames, so that chunks are cut into messages that a client may have parts of."""
        height, width = self.size
        return opening(
            geometry=pb.LatentGeometry(channels=CHANNELS, height=height, width=width),
            dtype=self.dtype,
            pixel_format=self.pixel_format,
            mode=pb.MODE_EXPLICIT,
            window_frames=window_frames,
            max_message_bytes=64 + 3 * (self.frame_bytes + 4),
            start_frame=start_frame,
            resume=pb.Resume(),
        )


@dataclass(frozen=True)
class Incarnation:
    """A server, from its start to its death."""

    process: ServerProcess
    levels_off: int
    """How far frames may be from those of the undisturbed run: 0 where chunks can't be cut differently."""

    @property
    def lives(self) -> bool:
        return self.process.process.poll() is None

    @property
    def num_deaths(self) -> int:
        """Workers that died, as its log has them."""
        return self.process.log.count("worker state=restarting")
