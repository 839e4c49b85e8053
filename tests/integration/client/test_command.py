"""The `client` command against the fake server: outputs, reports, exit codes."""

import asyncio
import io
import json
import os
import pty
import re
import signal
import ssl
import termios
from pathlib import Path
from typing import Any

import av
import grpc
import numpy as np
import pytest
from PIL import Image

from framehaul.v1 import frames_pb2 as pb
from tests.integration.client.test_faults import corrupt_payload
from tests.support.certificates import Authority
from tests.support.client_command import Outcome, make_file, run_client, start_client
from tests.support.fake_server import RGB_SHAPE, YUV_SHAPE, Behaviour, expected_frames
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
PLAIN = re.compile(r"[\x20-\x7e\n]*")


def assert_clean(outcome: Outcome) -> None:
    """No traceback and no control characters, whatever happened."""
    assert "Traceback" not in outcome.err
    assert PLAIN.fullmatch(outcome.err), outcome.err


def the_partial_file(folder: Path) -> Path:
    (found,) = folder.glob("v.mkv.*.partial")
    return found


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_video_file(target: str, behaviour: Behaviour, tmp_path: Path) -> None:
    """The report has the counts; the file has the frames; the file's notes went to the server."""
    latents = make_file(tmp_path / "a.safetensors", model="special", fps="25", normalized="true")
    out = tmp_path / "out" / "v.mkv"
    outcome = await run_client(
        "stream", tmp_path / "a.safetensors", "--out", out, "--target", target, "--codec", "ffv1", "--json",
        "--priority", 5,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert_clean(outcome)
    report = json.loads(outcome.out)
    assert (report["num_frames"], report["num_latents"], report["model"], report["fps"]) == (21, 6, "special", "25")
    assert (report["pixel_format"], report["out_bytes"]) == ("yuv420p", out.stat().st_size)
    assert sum(report["timeline"].values()) == pytest.approx(report["total_s"], abs=1e-4)
    assert all(seconds >= 0 for seconds in report["timeline"].values())
    opened = behaviour.opens[0]
    assert (opened.model, opened.normalized, opened.priority, opened.num_latents) == ("special", True, 5, 6)
    with av.open(str(out)) as container:
        assert container.streams.video[0].average_rate == 25
        decoded = np.stack([frame.to_ndarray() for frame in container.decode(video=0)])
    assert np.array_equal(decoded, expected_frames(latents, YUV_SHAPE))


@pytest.mark.parametrize("piped", [False, True])
async def test_a_draft_is_another_models_video_of_the_same_latents(
    target: str, behaviour: Behaviour, tmp_path: Path, piped: bool
) -> None:
    """Its session is opened first, with a higher priority; of a pipe both get all latents."""
    path, draft, out = (tmp_path / name for name in ("a.safetensors", "draft.mkv", "v.mkv"))
    latents = make_file(path, model="big", frames="21")
    process = await start_client(
        "stream", "-" if piped else path, "--draft", "fake", "--draft-out", draft, "--out", out, "--codec", "ffv1",
        "--priority", 5, "--target", target, "--json", stdin=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told, errors = await process.communicate(path.read_bytes())
    assert process.returncode == 0, errors
    report = json.loads(told)
    assert (report["model"], report["draft"]["model"], report["draft"]["num_frames"]) == ("big", "fake", 21)
    assert [(opened.model, opened.priority) for opened in behaviour.opens] == [("fake", 6), ("big", 5)]
    for video in (draft, out):
        with av.open(str(video)) as container:
            decoded = np.stack([frame.to_ndarray() for frame in container.decode(video=0)])
        assert np.array_equal(decoded, expected_frames(latents, YUV_SHAPE))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--draft", "gone", "--draft-out", "d.mp4"), "draft=gone: must be fake"),
        (("--draft", "fake"), "draft=fake: must come with --draft-out"),
        (("--draft-out", "d.mp4"), "draft-out=d.mp4: must come with --draft"),
        (("--draft", "fake", "--draft-out", "v.mp4"), "draft-out=v.mp4: must be another file than that of out"),
        (("--draft", "fake", "--draft-out", "-", "--out", "-"), "draft-out=-: must be another file than --out"),
        (("--draft", "fake", "--draft-out", "d.mp4", "--across", "2"), "leave out --draft"),
    ],
)
async def test_a_draft_that_can_not_be_is_refused(
    target: str, behaviour: Behaviour, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    """Before any session is opened, and nothing is left."""
    make_file(tmp_path / "a.safetensors")
    process = await start_client(
        "stream", "a.safetensors", "--out", "v.mp4", "--target", target, *options, cwd=tmp_path
    )
    _, errors = await process.communicate()
    assert (process.returncode, len(behaviour.opens)) == (2, 0)
    assert told in errors.decode()
    assert names_in(tmp_path) == ["a.safetensors"]


async def test_options_override_the_files_notes(target: str, behaviour: Behaviour, tmp_path: Path) -> None:
    """The command line has the last word."""
    make_file(tmp_path / "a.safetensors", model="special", fps="25", normalized="true")
    outcome = await run_client(
        "stream", tmp_path / "a.safetensors", "--out", tmp_path / "v.mp4", "--model", "m", "--fps", "50",
        "--no-normalized", "--format", "rgb24",
        FRAMEHAUL_TARGET=target,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert (behaviour.opens[0].model, behaviour.opens[0].normalized) == ("m", False)
    assert behaviour.opens[0].pixel_format == pb.PIXEL_FORMAT_RGB24
    assert b"v.mp4: 21 frames, 32x16, 50 frames/s" in outcome.out
    assert b"waiting for frames" in outcome.out


@pytest.mark.parametrize("more", [(), ("--container", "y4m")], ids=["matroska", "y4m"])
async def test_raw_video_on_stdout(target: str, tmp_path: Path, more: tuple[str, ...]) -> None:
    """stdout has the video and nothing else; the report goes to stderr."""
    latents = make_file(tmp_path / "a.safetensors")
    outcome = await run_client("stream", tmp_path / "a.safetensors", "--out", "-", "--target", target, "--json", *more)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.err)["num_frames"] == 21
    with av.open(io.BytesIO(outcome.out), "r") as container:
        decoded = np.stack([frame.to_ndarray() for frame in container.decode(video=0)])
    assert np.array_equal(decoded, expected_frames(latents, YUV_SHAPE))


async def test_a_killed_client_leaves_what_it_wrote(target: str, behaviour: Behaviour, tmp_path: Path) -> None:
    """Under the file's own name with --live, and it plays."""
    make_file(tmp_path / "a.safetensors", 60)
    behaviour.stop_after_frames = 201
    out = tmp_path / "v.mp4"
    process = await start_client("stream", tmp_path / "a.safetensors", "--out", out, "--target", target, "--live")
    await behaviour.all_acked.wait()  # all frames are with the encoder
    process.kill()
    await process.communicate()
    assert names_in(tmp_path) == ["a.safetensors", "v.mp4"]
    with av.open(str(out)) as container:
        assert len(list(container.decode(video=0))) >= 100


async def test_a_name_of_any_bytes(target: str, tmp_path: Path) -> None:
    """In the report too."""
    make_file(tmp_path / "a.safetensors")
    out = tmp_path / os.fsdecode(b"12:30 \xff.mp4")
    outcome = await run_client("stream", tmp_path / "a.safetensors", "--out", out, "--target", target)
    assert (outcome.code, out.is_file()) == (0, True)
    assert b"12:30 \\udcff.mp4: 21 frames" in outcome.out


async def test_an_impossible_rate_in_the_file(target: str, behaviour: Behaviour, tmp_path: Path) -> None:
    """--fps overrides it, images need none, and else it is told before the session opens."""
    make_file(tmp_path / "a.safetensors", fps="90000")
    arguments = ("stream", tmp_path / "a.safetensors", "--target", target, "--quiet", "--out")
    outcome = await run_client(*arguments, tmp_path / "v.mp4")
    assert (outcome.code, len(behaviour.opens)) == (2, 0)
    assert "framehaul.fps=90000: must be a number over 0 and up to 1000" in outcome.err
    assert (await run_client(*arguments, tmp_path / "v.mp4", "--fps", "24")).code == 0
    assert (await run_client(*arguments, tmp_path / "%d.png")).code == 0


async def test_images(target: str, tmp_path: Path) -> None:
    """Every frame, bit for bit, in a folder that is made."""
    latents = make_file(tmp_path / "a.safetensors")
    pattern = tmp_path / "frames" / "%03d.png"
    outcome = await run_client("stream", tmp_path / "a.safetensors", "--out", pattern, "--target", target, "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, b"", "")
    for index, frame in enumerate(expected_frames(latents, RGB_SHAPE)):
        with Image.open(tmp_path / "frames" / f"{index:03d}.png") as image:
            assert np.array_equal(np.asarray(image), frame)


async def test_latents_through_a_pipe_and_the_frames_that_the_clip_has(target: str, tmp_path: Path) -> None:
    """`-` is stdin; the report has the note's number of frames."""
    make_file(tmp_path / "a.safetensors", frames="18")
    process = await start_client(
        "stream", "-", "--out", tmp_path / "%d.png", "--target", target, "--json", stdin=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate((tmp_path / "a.safetensors").read_bytes())
    assert process.returncode == 0, err
    assert json.loads(out)["num_frames"] == len(names_in(tmp_path)) - 1 == 18


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("kind", ["fifo", "stdin"])
async def test_a_pipe_that_nobody_writes_to_can_be_left(
    tmp_path: Path, kind: str, number: signal.Signals, code: int
) -> None:
    """By either signal, with its code."""
    os.mkfifo(tmp_path / "fifo")
    name = "-" if kind == "stdin" else tmp_path / "fifo"
    process = await start_client("stream", name, "--out", tmp_path / "v.mp4", stdin=asyncio.subprocess.PIPE)
    await eventually(lambda: catches_sigterm(process.pid), lambda: "no handler of SIGTERM")
    process.send_signal(number)
    assert await process.wait() == code


def catches_sigterm(pid: int) -> bool:
    """Whether the process is so far that SIGTERM has a handler."""
    (caught,) = re.findall(r"^SigCgt:\s+(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


async def test_info(target: str) -> None:
    """Text for people, JSON for programs."""
    outcome = await run_client("info", "--target", target)
    assert outcome.code == 0
    assert b"framehaul 1.2 on fake" in outcome.out
    outcome = await run_client("info", "--json", FRAMEHAUL_TARGET=target)
    assert json.loads(outcome.out)["models"][0]["name"] == "fake"


async def test_models(target: str) -> None:
    """A table for people, JSON for programs; both with a size when asked."""
    outcome = await run_client("models", "--target", target, "--size", "64x32")
    assert outcome.code == 0
    heading, *models = outcome.out.decode().splitlines()
    assert heading.endswith("state at 64x32")
    assert [line.split()[0] for line in models] == ["fake"]
    outcome = await run_client("models", "--json", FRAMEHAUL_TARGET=target)
    assert [model["name"] for model in json.loads(outcome.out)] == ["fake"]
    outcome = await run_client("models", "--size", "64", FRAMEHAUL_TARGET=target)
    assert (outcome.code, outcome.out) == (2, b"")
    assert "'64': must be WIDTHxHEIGHT in pixels, like 832x480" in outcome.err


async def test_a_bar_on_a_terminal(target: str, tmp_path: Path) -> None:
    """stderr is a terminal: the bar counts to the number of frames that the server's factors give."""
    make_file(tmp_path / "a.safetensors")
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    try:
        arguments = ("stream", tmp_path / "a.safetensors", "--out", tmp_path / "v.mp4", "--target", target)
        process = await start_client(*arguments, stdout=asyncio.subprocess.DEVNULL, stderr=terminal)
        assert await process.wait() == 0
        assert b"21/21" in os.read(controller, 1 << 16)
    finally:
        os.close(controller)
        os.close(terminal)


# Exit codes


def abort(code: grpc.StatusCode, details: str, *trailers: tuple[str, str]) -> Any:
    return (code, details, trailers)


REFUSALS = [
    (abort(grpc.StatusCode.INVALID_ARGUMENT, "geometry: must be 16 channels"), 2, "geometry: must be 16 channels"),
    (abort(grpc.StatusCode.NOT_FOUND, "model=m: must be tiny"), 2, "model=m: must be tiny"),
    (abort(grpc.StatusCode.UNAVAILABLE, "draining"), 3, "draining"),
    (
        abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "64 sessions", ("grpc-retry-pushback-ms", "1500")),
        4,
        "64 sessions (try again in 1.5 s)",
    ),
    (abort(grpc.StatusCode.INTERNAL, "internal error 42"), 5, "INTERNAL: internal error 42"),
]


@pytest.mark.parametrize(("refusal", "code", "message"), REFUSALS, ids=[str(row[1]) + row[2][:9] for row in REFUSALS])
async def test_a_refusal(
    target: str, behaviour: Behaviour, tmp_path: Path, refusal: Any, code: int, message: str
) -> None:
    """The exit code tells a script what to do, the one line tells a person why; no file is left."""
    make_file(tmp_path / "a.safetensors")
    behaviour.refuse_open = refusal
    out = tmp_path / "out" / "v.mp4"
    outcome = await run_client(
        "stream", tmp_path / "a.safetensors", "--out", out, "--target", target, "--retry-for", "0"
    )
    assert (outcome.code, outcome.out) == (code, b"")
    assert outcome.err == f"client: {target}: {message}\n"
    assert not names_in(tmp_path / "out")


async def test_damaged_frames(target: str, behaviour: Behaviour, tmp_path: Path) -> None:
    """5; the frames before the damage are kept, and said where."""
    make_file(tmp_path / "a.safetensors")
    behaviour.edit = corrupt_payload
    outcome = await run_client("stream", tmp_path / "a.safetensors", "--out", tmp_path / "v.mkv", "--target", target)
    assert outcome.code == 5
    assert_clean(outcome)
    kept = the_partial_file(tmp_path)
    assert f"client: the frames so far are kept in {kept}\n" in outcome.err
    assert "crc32c" in outcome.err
    with av.open(str(kept)) as container:
        assert len(list(container.decode(video=0))) == 5
    assert not (tmp_path / "v.mkv").exists()


async def test_debug_shows_tracebacks(target: str, behaviour: Behaviour, tmp_path: Path) -> None:
    """By option or by environment."""
    make_file(tmp_path / "a.safetensors")
    behaviour.refuse_open = abort(grpc.StatusCode.INTERNAL, "x")
    arguments = ("stream", tmp_path / "a.safetensors", "--out", tmp_path / "v.mp4", "--target", target)
    assert "Traceback" in (await run_client(*arguments, "--debug")).err
    assert "Traceback" in (await run_client(*arguments, FRAMEHAUL_DEBUG="1")).err


async def test_an_unwritable_output_is_found_before_the_server_is_asked(
    target: str, behaviour: Behaviour, tmp_path: Path
) -> None:
    """6, and no session was opened for nothing."""
    make_file(tmp_path / "a.safetensors")
    (tmp_path / "file").write_text("")
    outcome = await run_client(
        "stream", tmp_path / "a.safetensors", "--out", tmp_path / "file" / "v.mp4", "--target", target
    )
    assert (outcome.code, outcome.err) == (6, f"client: {tmp_path / 'file'}: a file is in its way\n")
    assert not behaviour.opens


async def test_a_full_disk_ends_the_session(target: str, behaviour: Behaviour, tmp_path: Path) -> None:
    """6; the server is told at once."""
    make_file(tmp_path / "a.safetensors", 40)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        arguments = ("stream", tmp_path / "a.safetensors", "--out", "-", "--target", target)
        process = await start_client(*arguments, stdout=full)
        _, err = await process.communicate()
    finally:
        os.close(full)
    assert process.returncode == 6
    assert b"client: stdout: No space left on device\n" in err
    assert behaviour.left.is_set()


async def test_a_reader_that_leaves_is_no_error(target: str, behaviour: Behaviour, tmp_path: Path) -> None:
    """141, as any program in a pipe, without a word; the server is told."""
    make_file(tmp_path / "a.safetensors", 200)
    process = await start_client("stream", tmp_path / "a.safetensors", "--out", "-", "--target", target, "--quiet")
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert await process.stderr.read() == b""
    assert await process.wait() == 141
    await asyncio.wait_for(behaviour.left.wait(), 60)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
async def test_signals_end_it_cleanly(
    target: str, behaviour: Behaviour, tmp_path: Path, number: signal.Signals, code: int, word: str
) -> None:
    """The server is told, the frames so far are kept, and the code says what happened."""
    make_file(tmp_path / "a.safetensors", 20)
    behaviour.stop_after_frames = 9
    process = await start_client("stream", tmp_path / "a.safetensors", "--out", tmp_path / "v.mkv", "--target", target)
    await behaviour.all_acked.wait()  # all frames are with the encoder
    process.send_signal(number)
    out, err = await process.communicate()
    assert (process.returncode, out) == (code, b"")
    kept = the_partial_file(tmp_path)
    assert err.decode() == f"client: the frames so far are kept in {kept}\nclient: {word}\n"
    with av.open(str(kept)) as container:
        assert len(list(container.decode(video=0))) == 9
    await asyncio.wait_for(behaviour.left.wait(), 60)
    assert behaviour.left_early


async def test_a_failed_handshake_is_told_by_us_alone(tmp_path: Path) -> None:
    """One line, without gRPC's own for each attempt."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = Authority(tmp_path).sign("server")
    context.load_cert_chain(pair.certificate, pair.key)
    context.set_alpn_protocols(["h2"])

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        outcome = await run_client("info", "--tls", "--target", f"127.0.0.1:{port}", "--connect-timeout", "2")
    assert outcome.code == 3
    assert outcome.err.count("\n") == 1
    assert "the server's certificate isn't trusted: name its authority with --ca" in outcome.err
