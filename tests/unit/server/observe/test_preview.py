from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from framehaul.formats import PixelFormat
from framehaul_server.core.open_request import OpenRequest, check_open
from framehaul_server.core.packing import Outgoing, pack
from framehaul_server.core.session_view import Look
from framehaul_server.observe.preview import MOST_SESSIONS, SIDE, Previews, thumbnail
from tests.support.fakes import opening, published, rules
from tests.support.pictures import read_jpeg as read
from tests.support.waiting import eventually

RGB = (200, 60, 30)


def yuv(red: int, green: int, blue: int) -> tuple[float, float, float]:
    """BT.709, limited range, 8 bits."""
    luma = (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255
    return 16 + 219 * luma, 128 + 224 * (blue / 255 - luma) / 1.8556, 128 + 224 * (red / 255 - luma) / 1.5748


def plain(pixel_format: PixelFormat, height: int, width: int, rgb: tuple[int, int, int] = RGB) -> npt.NDArray[Any]:
    """A frame of one colour."""
    shape, dtype = pixel_format.shape(height, width), np.dtype(pixel_format.dtype)
    if pixel_format is PixelFormat.RGB24:
        return np.broadcast_to(np.array(rgb, dtype), shape)
    if pixel_format is PixelFormat.GBRPF16LE:
        red, green, blue = (np.full((height, width), value / 255, dtype) for value in rgb)
        return np.stack([green, blue, red])
    scale, areas = 4 if dtype.itemsize == 2 else 1, (height * width, height * width // 4, height * width // 4)
    planes = [np.full(area, round(value * scale), dtype) for area, value in zip(areas, yuv(*rgb), strict=True)]
    return np.concatenate(planes).reshape(shape)


@pytest.mark.parametrize("pixel_format", PixelFormat)
@pytest.mark.parametrize(
    ("width", "height", "shown"),
    [(832, 480, (160, 92)), (480, 832, (92, 160)), (64, 64, (64, 64)), (2, 2000, (2, 160))],
)
def test_a_picture_is_small_and_has_the_frames_colours(
    pixel_format: PixelFormat, width: int, height: int, shown: tuple[int, int]
) -> None:
    """In every format, and in the frame's proportions but for a pixel."""
    jpeg = thumbnail(plain(pixel_format, height, width).tobytes(), pixel_format, height, width)
    picture = read(jpeg)
    assert picture.shape == (shown[1], shown[0], 3)
    assert max(shown) <= SIDE
    assert np.abs(picture.astype(int) - RGB).max() <= 6
    assert len(jpeg) < 4000


def test_what_is_on_the_left_stays_there() -> None:
    frame = np.zeros((100, 200, 3), np.uint8)
    frame[:50, :100] = 255
    picture = read(thumbnail(frame.tobytes(), PixelFormat.RGB24, 100, 200)).mean(axis=2)
    assert picture[:36, :76].min() > 240
    assert max(picture[44:].max(), picture[:, 84:].max()) < 15


def test_half_floats_beyond_what_can_be_shown_are_shown_as_its_ends() -> None:
    """Decoders overshoot, and nothing says that a model's numbers are finite."""
    frame = plain(PixelFormat.GBRPF16LE, 64, 64).copy()
    frame[0], frame[1], frame[2] = np.inf, -3.0, np.nan
    picture = read(thumbnail(frame.tobytes(), PixelFormat.GBRPF16LE, 64, 64))
    assert np.abs(picture.astype(int) - (0, 255, 0)).max() <= 6


class Sessions:
    """Sessions that have frames when the test says so."""

    def __init__(self) -> None:
        self.request: OpenRequest = check_open(opening(), rules().opening)
        self.looks: dict[int, Look] = {}
        self.kept: dict[int, Outgoing] = {}
        self.previews = Previews(self.show)

    def show(self, number: int, look: Look) -> None:
        self.looks[number] = look
        if number in self.kept:
            self.offer(number, self.kept[number])

    def offer(self, number: int, outgoing: Outgoing) -> bool:
        return self.looks[number](number, self.request, outgoing)

    def frames(self, first: int, red: int) -> Outgoing:
        height, width = self.request.frame_size
        frames = [plain(PixelFormat.RGB24, height, width, (colour, 0, 0)).tobytes() for colour in (0, red)]
        chunk = published(first, 2, self.request.frame_bytes)
        (outgoing,) = pack(chunk, memoryview(b"".join(frames)), 2, 0)
        return outgoing

    async def made(self, number: int) -> int:
        """Wait for its picture, and give its red."""
        await self.rest()
        jpeg = self.previews.jpeg(number)
        assert jpeg is not None
        return round(float(read(jpeg)[..., 0].mean()))

    async def rest(self) -> None:
        """Wait until no picture is made."""
        await eventually(lambda: self.previews._making is None, lambda: "a picture is made")


@pytest.mark.asyncio
async def test_a_picture_is_of_the_last_frame_and_newer_ones_are_made_no_sooner_than_after_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sessions = Sessions()
    with sessions.previews.watched():
        sessions.previews.refresh([1])
        assert sessions.offer(1, sessions.frames(0, red=200))
        assert await sessions.made(1) == pytest.approx(200, abs=6)
        assert sessions.previews.version(1) == 2
        sessions.previews.refresh([1])
        assert not sessions.offer(1, sessions.frames(2, red=90)), "a moment later"
        monkeypatch.setattr("framehaul_server.observe.preview._INTERVAL_S", 0.0)
        assert not sessions.offer(1, sessions.frames(0, red=90)), "the same frames"
        assert sessions.offer(1, sessions.frames(2, red=90))
        assert await sessions.made(1) == pytest.approx(90, abs=6)
        sessions.previews.refresh([])
        assert sessions.previews.version(1) is None, "the session is gone"


@pytest.mark.asyncio
async def test_one_picture_is_made_at_a_time_and_every_session_has_its_turn() -> None:
    """Those that stand still as well; of messages, one is held."""
    sessions = Sessions()
    numbers = range(1, MOST_SESSIONS + 3)
    sessions.kept = {number: sessions.frames(0, red=number) for number in numbers}
    with sessions.previews.watched():
        sessions.previews.refresh(numbers)
        assert set(sessions.looks) == {1}, "the others are asked when that is made"
        assert not sessions.offer(1, sessions.frames(2, red=1)), "busy"
        await sessions.made(MOST_SESSIONS)
        assert [number for number in numbers if sessions.previews.version(number) == 2] == [*numbers][:MOST_SESSIONS]


@pytest.mark.asyncio
async def test_nothing_is_made_or_kept_while_nobody_looks() -> None:
    sessions = Sessions()
    sessions.previews.refresh([1])
    assert not sessions.looks
    with sessions.previews.watched(), sessions.previews.watched():
        sessions.previews.refresh([1, 2])
        assert sessions.offer(1, sessions.frames(0, red=200))
        await sessions.made(1)
    assert sessions.previews.jpeg(1) is None
    assert sessions.offer(2, sessions.frames(0, red=200)), "taken, so that the session asks no more"
    assert sessions.previews._making is None


@pytest.mark.asyncio
async def test_a_picture_that_cannot_be_made_is_logged_and_the_next_one_is_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = Sessions()
    with sessions.previews.watched(), monkeypatch.context() as patch:
        sessions.previews.refresh([1])
        patch.setattr("framehaul_server.observe.preview.thumbnail", no_memory)
        assert sessions.offer(1, sessions.frames(0, red=200))
        await sessions.rest()
        patch.undo()
        assert "no preview of a session" in caplog.text
        assert sessions.offer(1, sessions.frames(0, red=200))
        await sessions.made(1)


def no_memory(*_: object) -> bytes:
    raise MemoryError
