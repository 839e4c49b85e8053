"""`client highlight`, and the call below it, against a highlight service of a few lines."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from framehaul.v1 import frames_pb2
from framehaul.v1 import highlights_pb2 as pb
from framehaul_client import Access, FrameBatch, FrameClient, Progress, Query, Scores
from framehaul_client.command.arguments import parse
from framehaul_client.command.highlight import highlight
from framehaul_client.command.progress import Bar
from framehaul_client.command.progress import Progress as Shown
from framehaul_client.errors import DataLoss, FramehaulError, InvalidOption, InvalidRequest, ProtocolError
from tests.support.client_command import run_client
from tests.support.cut_films import RATE, frames_of, make_film
from tests.support.fake_highlights import Answers, fake_highlights

EXCERPT = pb.Excerpt(start=1, end=2, score=1)
SCORES = pb.HighlightResponse(scores=pb.Scores(times=[0], scores=[1], excerpts=[EXCERPT]))
COMING = pb.HighlightResponse(
    excerpt=pb.ExcerptFrames(
        excerpt=EXCERPT,
        num_frames=1,
        height=2,
        width=2,
        pixel_format=frames_pb2.PIXEL_FORMAT_YUV420P,
        rate_numerator=25,
        rate_denominator=1,
    )
)
FRAME = pb.HighlightResponse(frames=frames_pb2.Frames(num_frames=1, crc32c=[0x4E82A4D3]), payload=bytes(range(1, 7)))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def events_of(client: FrameClient) -> list[object]:
    async with client.highlight("server:a.mp4", Query(images=[b"jpeg"], frames=True)) as found:
        return [event async for event in found]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    (folder / "can.jpg").write_bytes(b"a picture, for all that this service knows")
    return make_film(folder / "film.mp4", num_frames=150, options={"preset": "ultrafast", "sc_threshold": "0"})


@pytest.fixture
def run(film: Path) -> Callable[..., Any]:
    """The command, in this process, with a picture."""

    async def command(answers: Answers, *arguments: object, progress: Shown | None = None) -> str:
        async with fake_highlights(answers) as target:
            given = ("highlight", "--image", film.parent / "can.jpg", "--target", target, *arguments)
            return await highlight(parse([*map(str, given)]), Access(), progress or Shown())

    return command


@pytest.mark.asyncio
async def test_a_film_goes_up_and_its_clip_is_cut_here(film: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    """No frame crosses the network; scores go into a file, and into a picture."""
    answers, clip = Answers(), tmp_path / "clip.mp4"
    files = ("--json", tmp_path / "scores.json", "--plot", tmp_path / "scores.png")
    text = await run(answers, film, "--out", clip, "--seconds", "2", *files)
    content = content_of(film)
    assert bytes(answers.uploaded) == content
    assert answers.opened is not None
    assert (answers.opened.upload_bytes, answers.opened.seconds) == (len(content), 2.0)
    assert answers.opened.want == pb.WANT_SCORES
    assert len(frames_of(clip)) == 2 * RATE
    assert "1. 0:03.5-0:05.5, 3.0 sd" in text
    assert "50 frames" in text
    told = json.loads(content_of(tmp_path / "scores.json"))
    assert (told["clips"], told["excerpts"][0]["start"], len(told["samples"])) == ([str(clip)], 3.5, 20)
    assert content_of(tmp_path / "scores.png")[:4] == b"\x89PNG"


@pytest.mark.asyncio
async def test_frames_of_a_film_on_the_server_are_encoded_here(tmp_path: Path, run: Callable[..., Any]) -> None:
    """Never more than the window are on their way; several clips are numbered."""
    answers = Answers(excerpts=[(3, 5), (7, 9)], frames_each=50)
    text = await run(answers, "server:a/b.mp4", "--clips", "2", "--crop", "9:16", "--out", tmp_path / "clip.mp4")
    assert answers.opened is not None
    assert (answers.opened.path, answers.opened.crop_width, len(answers.uploaded)) == ("a/b.mp4", 9, 0)
    assert answers.most_ahead <= answers.opened.window_frames
    clips = [frames_of(tmp_path / f"clip-{number}.mp4") for number in (1, 2)]
    assert [len(each) for each in clips] == [50, 50]
    assert abs(int(clips[1][0][0, 0]) - (16 + 50)) < 4
    assert "without sound" in text


@pytest.mark.asyncio
async def test_maps_of_where_people_look_are_a_video(film: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    """Beside clips that are cut here and clips that come as frames, one for each; or alone."""
    answers, maps = Answers(excerpts=[(1, 3), (3.5, 5.5)], frames_each=50), tmp_path / "map.mp4"
    outputs = ("--clips", "2", "--out", tmp_path / "clip.mp4", "--saliency", maps, "--json", tmp_path / "scores.json")
    for crop in ((), ("--crop", "9:16")):
        text = await run(answers, film, *outputs, *crop)
        names = [str(tmp_path / f"map-{number}.mp4") for number in (1, 2)]
        assert json.loads(content_of(tmp_path / "scores.json"))["saliency"] == names
        assert [len(frames_of(Path(name))) for name in names] == [50, 50]
        assert [len(frames_of(tmp_path / f"clip-{number}.mp4")) for number in (1, 2)] == [50, 50]
        assert text.count("50 frames, maps of where people look") == 2
    await run(Answers(frames_each=3), film, "--saliency", maps)
    assert len(frames_of(maps)) == 3


@pytest.mark.asyncio
async def test_a_whole_films_maps_need_nothing_to_look_for(film: Path, tmp_path: Path) -> None:
    answers = Answers(excerpts=[(0, 6)], frames_each=5)
    async with fake_highlights(answers) as target:
        options = parse(["highlight", str(film), "--saliency", str(tmp_path / "map.mkv"), "--target", target])
        text = await highlight(options, Access(), Shown())
    assert answers.opened is not None
    assert answers.opened.saliency
    assert not answers.opened.images
    assert text.startswith(f"   {tmp_path}/map.mkv: 5 frames, maps")


@pytest.mark.asyncio
async def test_a_dry_run_writes_nothing(film: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    """Its scores come on stdout if that is asked for; a weak match is called so."""
    found = json.loads(await run(Answers(weak=True), film, "--dry-run", "--json", "-"))
    assert found["excerpts"][0]["weak"]
    assert "A weak match" in await run(Answers(weak=True), film, "--dry-run")
    assert await run(Answers(), film, "--dry-run", "--quiet") == ""
    assert not names_in(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["film.mp4"], "out: must name the clip"),
        (["nothing.mp4", "--out", "clip.mp4"], "No such file"),
        (["nothing.mp4", "--dry-run"], "no such file"),
        (["film.mp4", "--out", "clip.xyz"], "must be -, a name"),
        (["film.mp4", "--out", "clip.mp4", "--copy", "--crop", "9:16"], "copy: doesn't go with --crop"),
        (["server:a", "--out", "clip.mp4", "--copy"], "copy: doesn't go with a film that the server has"),
        (["film.mp4", "--out", "-", "--clips", "2"], "clips=2: must be 1"),
        (["film.mp4", "--out", "clip.mp4", "--plot", "scores.gif"], "plot=scores.gif: must end in .png or .svg"),
        (["film.mp4", "--saliency", "map.xyz"], "must be -, a name"),
        (["film.mp4", "--saliency", "map.mp4", "--dry-run"], "saliency=map.mp4: doesn't go with --dry-run"),
        (["film.mp4", "--saliency", "-", "--out", "clip.mp4"], "saliency=-: stdout takes one video alone"),
        (["film.mp4", "--out", "clip.mp4", "--image", "nothing.jpg"], "image=nothing.jpg: No such file"),
        (["film.mp4", "--out", "clip.mp4", "--image", "empty.jpg"], "image=empty.jpg: must have 1..16777216 bytes"),
    ],
)
@pytest.mark.asyncio
async def test_what_can_not_be_done_is_said_before_anything_is_sent(
    film: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[..., Any],
    arguments: list[str],
    words: str,
) -> None:
    """It names the option, the value and what is allowed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "film.mp4").symlink_to(film)
    (tmp_path / "empty.jpg").touch()
    answers = Answers()
    with pytest.raises(InvalidOption, match=words):
        await run(answers, *arguments)
    assert answers.opened is None


@pytest.mark.parametrize("option", ["out", "plot"])
@pytest.mark.asyncio
async def test_clips_need_something_to_look_for(film: Path, option: str) -> None:
    given = ["highlight", str(film), "--saliency", "map.mp4", f"--{option}", "a.png"]
    with pytest.raises(InvalidOption, match=rf"{option}=a.png: needs an --image or a --text"):
        await highlight(parse(given), Access(), Shown())


@pytest.mark.parametrize(
    ("responses", "error"),
    [
        ([], ProtocolError),  # the call ends well, too early
        ([SCORES, SCORES], ProtocolError),
        ([COMING], ProtocolError),  # before the scores
        ([SCORES, FRAME], ProtocolError),  # without an excerpt
        ([SCORES, COMING, COMING], DataLoss),  # the first one's frame is missing
        ([SCORES, COMING, FRAME], DataLoss),  # not the checksum
        ([pb.HighlightResponse(done=pb.HighlightDone())], ProtocolError),
        ([SCORES, COMING, pb.HighlightResponse(done=pb.HighlightDone(num_frames=1))], DataLoss),
    ],
)
@pytest.mark.asyncio
async def test_a_server_that_errs_is_not_believed(
    film: Path, responses: list[pb.HighlightResponse], error: type[FramehaulError]
) -> None:
    """Whatever it says, in whatever order."""
    async with fake_highlights(Answers(instead=responses)) as target, FrameClient(target) as client:
        with pytest.raises(error):
            await events_of(client)


@pytest.mark.asyncio
async def test_a_program_gets_events(film: Path) -> None:
    """In order; and leaving midway cancels the call."""
    async with fake_highlights(Answers(frames_each=3)) as target, FrameClient(target) as client:
        query = Query(images=[b"jpeg"], frames=True)
        async with client.highlight(str(film), query) as found:
            kinds = [type(event) async for event in found]
        assert kinds[:3] == [Progress, Progress, Scores]
        assert kinds[4:] == [FrameBatch] * 3
        async with client.highlight(str(film), query) as found:
            await anext(found)
        empty = film.with_name("empty.mp4")
        empty.touch()
        for name, words in (("nothing.mp4", "No such file"), ("empty.mp4", "is empty")):
            with pytest.raises(InvalidOption, match=words):
                await client.highlight(str(film.with_name(name)), query).__aenter__()


@pytest.mark.asyncio
async def test_the_server_s_word_is_told(film: Path, run: Callable[..., Any]) -> None:
    """A refusal in the middle of the upload included, which ends that."""
    refusal = (grpc.StatusCode.FAILED_PRECONDITION, "text: this server has no model that reads text")
    with pytest.raises(InvalidRequest, match="no model that reads text"):
        await run(Answers(abort=refusal), film, "--text", "a can", "--dry-run")
    async with fake_highlights(Answers(abort=refusal)) as target:
        arguments = ("--text", "a can", "--dry-run", "--json", "-", "--target", target)
        outcome = await run_client("highlight", film, *arguments)
    assert (outcome.code, json.loads(outcome.out)["exit_code"]) == (2, 2)
    assert "no model that reads text" in outcome.err


@pytest.mark.asyncio
async def test_progress_shows_the_best_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    """As a bar, and then one for the frames of each excerpt."""
    answers, terminal = Answers(frames_each=3, excerpts=[(3.5, 5.5), (7.0, 9.0)]), Terminal()
    with Bar(terminal) as bar:
        await run(answers, "server:a", "--out", tmp_path / "clip.mp4", "--clips", "2", progress=bar)
    assert "scanned 0:04.0 of 0:10.0" in terminal.getvalue()
    assert "best so far 0:03.5-0:05.5, 3.0 sd" in terminal.getvalue()
    assert len(re.findall("3/3[^\r]*\n", terminal.getvalue())) == 2
