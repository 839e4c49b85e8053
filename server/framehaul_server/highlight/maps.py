"""Maps of where people look in a film: a reader puts runs of frames into slots, the worker maps there in their place.

Runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np

from framehaul.formats import PixelFormat
from framehaul_pipeline.highlight.messages import FilmInfo, ReadRuns
from framehaul_pipeline.highlight.rank import Floats
from framehaul_pipeline.highlight.runs import is_backwards
from framehaul_pipeline.link.messages import MapFrames
from framehaul_pipeline.models.saliency import MOST_FRAMES, WINDOW_FRAMES, SaliencyModel, num_windows
from framehaul_pipeline.supervision.epoch import WorkerQuery
from framehaul_pipeline.supervision.reader import ReaderLost
from framehaul_server.highlight.readers import Readers
from framehaul_server.highlight.scan import FilmSamples

Take = Callable[[int, memoryview], Awaitable[None]]
"""Takes so many maps, one after the other."""


class FilmMaps:
    """Makes maps of a film."""

    def __init__(
        self,
        model: SaliencyModel,
        readers: Readers,
        query: WorkerQuery,
        found: FilmSamples,
        info: FilmInfo,
        device: str,
    ) -> None:
        """Nothing happens yet."""
        self._model, self._readers, self._query, self._found, self._info = model, readers, query, found, info
        self._most_frames = WINDOW_FRAMES if device.startswith("cpu") else MOST_FRAMES
        self.width, self.height = map_size(info, model)

    async def make(self, maps: range, pixel_format: PixelFormat, take: Take) -> None:
        """Make maps of these frames, and hand them over in order; no slot is held meanwhile.

        Raises:
            InvalidInput: the film can't be read.
            ReadersKilled: it ends its readers.
        """
        info, left = self._info, maps

        async def mapped(slot: int, generation: int, times: tuple[float, ...]) -> None:
            nonlocal left
            if times and round(times[0] * info.rate_numerator / info.rate_denominator) < left.start:
                self._query.samples.abandon(slot, generation)  # a reader died, and another one reads them again
                return
            if not 0 < len(times) <= min(len(left), num_windows(self._most_frames, left.step)):
                self._query.samples.abandon(slot, generation)
                raise ReaderLost("the film's reader tells what can't be")
            message = MapFrames(
                query=self._query.number,
                slot=slot,
                generation=generation,
                num_frames=WINDOW_FRAMES + (len(times) - 1) * left.step,
                every=left.step,
                backwards=is_backwards(left.start),
                width=self.width,
                height=self.height,
                pixel_format=pixel_format,
            )
            pictures = await self._found.maps(self._query, message)
            left = left[len(times) :]
            await take(len(times), memoryview(pictures))

        job = ReadRuns(
            first=maps.start,
            num_maps=len(maps),
            every=maps.step,
            rate_numerator=info.rate_numerator,
            rate_denominator=info.rate_denominator,
            most_frames=self._most_frames,
            width=self._model.width,
            height=self._model.height,
        )
        await self._readers.run([job], mapped, at_once=1)

    async def looked_at(self, frames: range) -> Floats:
        """How much people look where in these frames, `[height, width]`; a map a second tells."""
        rate = self._info.rate_numerator / self._info.rate_denominator
        every = max(1, round(rate))
        sums = np.zeros((self.height, self.width))

        async def add(num_maps: int, pictures: memoryview) -> None:
            nonlocal sums
            levels = np.frombuffer(pictures, np.uint8).reshape(num_maps, self.height, self.width, 3)[..., 0]
            sums = sums + levels.sum(0)

        await self.make(frames[min(every, len(frames)) // 2 :: every], PixelFormat.RGB24, add)
        return sums


def map_size(info: FilmInfo, model: SaliencyModel) -> tuple[int, int]:
    """Width and height of a film's maps: its shape, as many pixels on the longer side as the network has, and even."""
    longer = max(info.width, info.height)
    width, height = (max(2, round(side * model.width / longer / 2) * 2) for side in (info.width, info.height))
    return width, height
