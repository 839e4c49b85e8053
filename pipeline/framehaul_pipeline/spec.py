"""What a decoder is: plain values, shared by server and worker.

Pure: imports neither torch nor grpc, so that the server may read a worker's specifications.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

import msgspec

from framehaul import clip
from framehaul.formats import LatentDtype
from framehaul_pipeline.errors import InvalidInput

UNTOLD_LATENTS: Final = 128
"""The most of a clip whose length isn't told at its opening, where each latent makes a session's state larger."""


class Exactness(str, Enum):
    """What frames decoded in chunks equal."""

    FULL = "full"
    """The decode of the whole clip at once, in any chunking."""
    LIBRARY_PARTITION = "library-partition"
    """The reference library's decode, which cuts the clip the same way."""
    LIBRARY_TILES = "library-tiles"
    """The reference library's decode in overlapping temporal tiles."""
    APPROXIMATE = "approximate"


class DecoderSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder's shape rules.

    A clip of `n` latents `[n, channels, h, w]` gives `num_frames(n)` frames of `h * spatial_factor` by
    `w * spatial_factor` pixels.
    """

    name: str
    channels: int
    spatial_factor: int
    temporal_factor: int
    first_frames: int
    """Frames that the first latent gives (1 for decoders that treat it as a picture)."""
    lookahead_latents: int
    """The most latents after its own that a frame depends on."""
    exactness: Exactness
    receptive_latents: int | None
    """How many latents back a frame depends on, its own included; None: on all of them."""
    state_bytes_per_pixel: float
    """Temporal state of a session, device bytes for each output pixel, in numbers of 16 bits as on GPUs; where it
    grows, of a clip of `UNTOLD_LATENTS`."""
    growth_bytes_per_pixel: float = 0.0
    """Of that, what each latent adds: its keys and values, for the attention of all later ones."""
    latent_mean: tuple[float, ...] = ()
    latent_std: tuple[float, ...] = ()
    """Per channel: `latents = normalized * std + mean`; empty: already in the decoder's own scale."""
    tile_latents: int = 0
    """Latents of a temporal tile, for decoders that cross-fade overlapping tiles; 0: no tiles."""
    tile_stride_latents: int = 0
    """Latents from one tile's start to the next one's; 0: no tiles."""
    tile_lead_latents: int = 1
    """Of the latents that two tiles share, those whose frames the earlier one settles; the others' fade over."""
    drains: bool = False
    """Frames that lookahead holds back come latent by latent after the clip's last one, as if blank ones followed.
    Otherwise all come with the last latent."""
    period_latents: int = 0
    """Each so many latents there is one that gives `first_frames`; 0: the clip's first alone."""

    def __post_init__(self) -> None:
        """Check that tiles overlap and that the lookahead is theirs.

        Raises:
            ValueError: names the field, its value and what is allowed.
        """
        tile = self.tile_latents
        if not (tile == self.tile_stride_latents == 0 or 1 <= self.tile_stride_latents < tile):
            raise ValueError(
                f"tile_stride_latents={self.tile_stride_latents}: must be 1..{tile - 1} in tiles of {tile}"
            )
        if tile and self.lookahead_latents != tile - 1:
            raise ValueError(f"lookahead_latents={self.lookahead_latents}: must be {tile - 1} in tiles of {tile}")
        if self.drains and (tile or not self.lookahead_latents):
            allowed = "false in tiles or without lookahead_latents"
            raise ValueError(f"drains={self.drains}: must be {allowed}")
        shared = tile - self.tile_stride_latents
        if tile and not 0 <= self.tile_lead_latents <= shared:
            raise ValueError(f"tile_lead_latents={self.tile_lead_latents}: must be 0..{shared}, as tiles share so many")

    @property
    def num_blanks(self) -> int:
        """Blank latents that follow a clip's last one."""
        return self.lookahead_latents if self.drains else 0

    @property
    def starts_anywhere(self) -> bool:
        """Whether a decode that starts in the middle, from nothing, gives the clip's own frames after a while.

        That takes a finite memory and no lookahead. In such a decode every latent gives `temporal_factor` frames: the
        clip's first one, which may be special, isn't there.
        """
        return self.receptive_latents is not None and self.lookahead_latents == 0

    @property
    def history_latents(self) -> int | None:
        """Latents before its own that a frame needs when a decode starts for it; None: all of them."""
        if self.receptive_latents is None or not self.starts_anywhere:
            return None
        return self.receptive_latents - 1

    def first_latent_for(self, frame: int) -> int:
        """The latent that a decode must start from, for this frame and all after it."""
        return clip.first_latent_for(
            frame, self.first_frames, self.temporal_factor, self.history_latents, self.period_latents
        )

    def num_frames(self, num_latents: int) -> int:
        """Frames of a whole clip of `num_latents` latents: in a longer one, the index of the next latent's first."""
        return clip.num_frames(num_latents, self.first_frames, self.temporal_factor, self.period_latents)

    def frames_after(self, num_latents: int, *, ended: bool) -> int:
        """Frames that can be out once `num_latents` are in; `ended`: no more will come.

        A whole tile settles the frames of all its latents but those that fade over into the next tile's. They wait to
        be cross-faded, or for the end. Where blanks follow the last latent they count here, and the end gives nothing.
        """
        if ended and not self.drains:
            return self.num_frames(num_latents)
        if not self.tile_latents:
            return self.num_frames(max(0, num_latents - self.lookahead_latents))
        num_tiles = (num_latents - self.tile_latents) // self.tile_stride_latents + 1
        return self.num_frames(num_tiles * self.tile_stride_latents + self.tile_lead_latents) if num_tiles > 0 else 0

    def latents_within(self, num_frames: int) -> int:
        """The most latents that give no more than `num_frames` frames while others follow."""
        fitting = self.latents_whole(num_frames)
        if not self.tile_latents:
            return fitting + self.lookahead_latents
        num_tiles = max(0, fitting - self.tile_lead_latents) // self.tile_stride_latents
        return num_tiles * self.tile_stride_latents + self.tile_latents - 1

    def latents_whole(self, num_frames: int) -> int:
        """The most latents of a whole clip that gives no more than `num_frames` frames."""
        return clip.latents_whole(num_frames, self.first_frames, self.temporal_factor, self.period_latents)

    def restarting(self, every_latents: int) -> DecoderSpec:
        """The same decoder, of clips that are cold at each `every_latents` latents: their frames repeat so."""
        return msgspec.structs.replace(
            self,
            period_latents=every_latents,
            receptive_latents=min(every_latents, self.receptive_latents or every_latents),
            state_bytes_per_pixel=self.state_bytes_per_pixel + self._growth_bytes(every_latents),
            growth_bytes_per_pixel=0.0,
        )

    def more_state_bytes(self, geometry: Geometry, num_latents: int | None, itemsize_bytes: int) -> int:
        """What the state of a clip of `num_latents`, None: untold, takes beyond that of `UNTOLD_LATENTS`, or less.

        It is made of numbers of `itemsize_bytes`.
        """
        height, width = geometry.frame_size(self)
        growth_bytes = self._growth_bytes(UNTOLD_LATENTS if num_latents is None else num_latents)
        return math.ceil(height * width * growth_bytes * itemsize_bytes / 2)

    def _growth_bytes(self, num_latents: int) -> float:
        return self.growth_bytes_per_pixel * (num_latents - UNTOLD_LATENTS)

    def most_frames(self, num_latents: int) -> int:
        """The most frames of a chunk of `num_latents`, 1 or more: its own, and all that were held back before.

        Most are held back just before the lookahead, or the first tile, is full. Before a later tile is full the
        first latent's frames are out already.
        """
        own = self.first_frames if self.tile_latents else max(self.first_frames, self.temporal_factor)
        held_back = 0 if self.drains else self.lookahead_latents
        return own + (held_back + num_latents - 1) * self.temporal_factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The size of a session's latents, in latent units."""

    channels: int
    height: int
    width: int

    def latent_bytes(self, dtype: LatentDtype) -> int:
        """Bytes of one latent `[channels, height, width]`."""
        return self.channels * self.height * self.width * dtype.itemsize_bytes

    def frame_size(self, spec: DecoderSpec) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return self.height * spec.spatial_factor, self.width * spec.spatial_factor

    def check(self, spec: DecoderSpec, max_pixels: int) -> None:
        """Refuse a geometry that `spec` can't decode or that makes frames of more than `max_pixels`.

        Raises:
            InvalidInput: names the field, its value and what is allowed.
        """
        if self.channels != spec.channels:
            allowed = f"{spec.channels} for model {spec.name!r}; the axes of latents are [T, C, h, w]"
            raise InvalidInput("geometry.channels", self.channels, allowed)
        longest = max_pixels // spec.spatial_factor**2
        for name, value in (("geometry.height", self.height), ("geometry.width", self.width)):
            if not 1 <= value <= longest:
                raise InvalidInput(name, value, f"1..{longest} latents")
        height, width = self.frame_size(spec)
        if height * width > max_pixels:
            raise InvalidInput("geometry", f"{height}x{width}", f"at most {max_pixels} pixels a frame on this server")
