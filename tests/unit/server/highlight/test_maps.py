"""Maps of a film, in order and each once, whatever its readers do."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from framehaul.formats import PixelFormat
from framehaul_pipeline.highlight.messages import FilmInfo, ReadRuns
from framehaul_pipeline.link.messages import MapFrames
from framehaul_pipeline.models.saliency import SaliencyModel
from framehaul_pipeline.supervision.reader import ReaderLost
from framehaul_server.highlight.maps import FilmMaps, map_size

MODEL = SaliencyModel(path="")


def film(width: int = 160, height: int = 90) -> FilmInfo:
    return FilmInfo(
        duration=9, width=width, height=height, rate_numerator=10, rate_denominator=1, seekable=True, key_times=()
    )


class Bench:
    """Readers that fill slots as they are told to, and a worker that counts frames into its maps."""

    number = 1

    def __init__(self, *filled: tuple[float, ...]) -> None:
        self.filled = filled
        self.jobs: list[ReadRuns] = []
        self.asked: list[MapFrames] = []
        self.abandoned: list[int] = []
        self.samples = SimpleNamespace(abandon=lambda slot, generation: self.abandoned.append(slot))
        readers: Any = self
        self.maps_of = FilmMaps(MODEL, readers, readers, readers, film(), "cuda")

    async def run(self, jobs: list[ReadRuns], on_filled: Any, *, at_once: int) -> None:
        self.jobs += jobs
        for slot, times in enumerate(self.filled):
            await on_filled(slot, 1, times)

    async def maps(self, query: object, message: MapFrames) -> bytes:
        self.asked.append(message)
        count = (message.num_frames - 32) // message.every + 1
        picture = np.zeros((message.height, message.width, 3), np.uint8)
        picture[:, : 10 * len(self.asked)] = 1
        return picture.tobytes() * count


@pytest.mark.asyncio
async def test_maps_come_once_and_in_order_though_a_reader_died() -> None:
    """Another one fills the first slots again. Those at the film's beginning are made of what comes after them."""
    bench = Bench((2.9, 3.0), (2.9, 3.0), (3.1, 3.2, 3.3))
    taken: list[tuple[int, int]] = []

    async def take(num_maps: int, pictures: memoryview) -> None:
        taken.append((num_maps, len(pictures)))

    await bench.maps_of.make(range(29, 34), PixelFormat.RGB24, take)
    size = 384 * 216 * 3
    assert taken == [(2, 2 * size), (3, 3 * size)]
    assert bench.abandoned == [1]
    assert [(each.num_frames, each.backwards, each.slot) for each in bench.asked] == [(33, True, 0), (34, False, 2)]
    assert [(job.first, job.num_maps, job.every, job.most_frames) for job in bench.jobs] == [(29, 5, 1, 35)]


@pytest.mark.parametrize("times", [(), (0.0,) * 9, (0.0,) * 4])
@pytest.mark.asyncio
async def test_a_reader_that_tells_what_cannot_be_is_lost(times: tuple[float, ...]) -> None:
    bench = Bench(times)
    with pytest.raises(ReaderLost):
        await bench.maps_of.make(range(3), PixelFormat.RGB24, None)  # type: ignore[arg-type]
    assert (bench.abandoned, bench.asked) == ([0], [])


@pytest.mark.asyncio
async def test_a_crop_needs_a_map_a_second() -> None:
    bench = Bench((4.5,), (5.5,))
    looked_at = await bench.maps_of.looked_at(range(40, 60))
    assert [(job.first, job.num_maps, job.every) for job in bench.jobs] == [(45, 2, 10)]
    assert looked_at.shape == (216, 384)
    assert looked_at[0, [5, 15, 25]].tolist() == [2, 1, 0]
    short = Bench((4.1,))
    await short.maps_of.looked_at(range(40, 43))
    assert [(job.first, job.num_maps) for job in short.jobs] == [(41, 1)]


def test_maps_have_the_films_shape() -> None:
    """Even sides, as videos need them."""
    assert [map_size(film(*size), MODEL) for size in ((1920, 1080), (1080, 1920), (384, 7), (100000, 1))] == [
        (384, 216),
        (216, 384),
        (384, 8),
        (384, 2),
    ]
