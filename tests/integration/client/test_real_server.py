"""The whole path: client, server, worker, model, on the CPU."""

import asyncio
import itertools
import json
import os
import pickle
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import OpenEXR
import pytest
from PIL import Image
from safetensors.numpy import save_file

from framehaul_client import FrameClient, InvalidRequest, NotFound
from tests.support.client_command import Outcome, run_client, start_client
from tests.support.clips import Clip, decode, make_clip
from tests.support.server_process import SAME_CHUNKS, ServerProcess, running_server
from tests.support.waiting import wait_until

HEIGHT, WIDTH = 6, 8  # of a latent; 8 times that of a frame


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests here: each must leave it as good as new."""
    with running_server(tmp_path_factory.mktemp("server") / "log", *SAME_CHUNKS) as running:
        yield running


def make_latents(num_latents: int = 5) -> Clip:
    return make_clip(num_latents, height=HEIGHT, width=WIDTH, seed=9)


def run(target: str, latents: Any, **options: Any) -> np.ndarray[Any, Any]:
    return asyncio.run(decode(target, latents, **options))


def stream(server: ServerProcess, *arguments: object) -> Outcome:
    return asyncio.run(run_client("stream", *arguments, "--target", server.target))


def test_frames_do_not_depend_on_how_latents_arrive(server: ServerProcess) -> None:
    """One array, single latents, an async generator, a small window: the same frames, bit for bit."""
    latents = make_latents()

    async def produce() -> AsyncIterator[np.ndarray[Any, Any]]:
        for latent in latents:
            yield latent

    whole = run(server.target, latents)
    assert whole.shape == (20, HEIGHT * 8, WIDTH * 8, 3)
    assert whole.std() > 10, "a picture, not a blank"
    assert np.array_equal(run(server.target, iter(latents)), whole)
    assert np.array_equal(run(server.target, produce()), whole)
    assert np.array_equal(run(server.target, latents, window_frames=4), whole)


def test_yuv_and_rgb_are_the_same_pictures(server: ServerProcess) -> None:
    """swscale turns the server's yuv420p into nearly its rgb24: planes, order and range are understood alike."""
    latents = make_latents(2)
    rgb = run(server.target, latents).astype(float)
    yuv = run(server.target, latents, pixel_format="yuv420p")
    for frame, expected in zip(yuv, rgb, strict=True):
        picture = av.VideoFrame.from_numpy_buffer(frame, format="yuv420p")
        converted = picture.reformat(format="rgb24", src_colorspace="ITU709", dst_colorspace="ITU709").to_ndarray()
        small = (converted.reshape(HEIGHT * 4, 2, WIDTH * 4, 2, 3).mean(axis=(1, 3)) - _halved(expected)) ** 2
        assert small.mean() < 9


def _halved(rgb: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    halved: np.ndarray[Any, Any] = rgb.reshape(HEIGHT * 4, 2, WIDTH * 4, 2, 3).mean(axis=(1, 3))
    return halved


def test_deep_formats_are_the_same_pictures(server: ServerProcess) -> None:
    """Rounded to 8 bits they are what the 8-bit formats are, to one level."""
    latents = make_latents(2)
    rgb, yuv, deep, half = (
        run(server.target, latents, pixel_format=name) for name in ("rgb24", "yuv420p", "yuv420p10le", "gbrpf16le")
    )
    assert (deep.dtype, half.dtype) == (np.uint16, np.float16)
    assert half.shape == (8, 3, HEIGHT * 8, WIDTH * 8)
    assert np.abs(np.rint(half[:, [2, 0, 1]].transpose(0, 2, 3, 1) * 255.0) - rgb).max() <= 1
    assert np.abs(deep / 4 - yuv).max() <= 1
    assert len(np.unique(half)) > len(np.unique(rgb)), "levels between those of 8 bits"
    assert len(np.unique(deep % 4)) == 4


def test_every_dtype_decodes_alike(server: ServerProcess) -> None:
    """Values that float16, bfloat16 and float32 all can hold give the same frames."""
    latents = np.round(make_latents(2) * 4).clip(-16, 16) / 4
    bits = latents.astype("<f4").view("<u4") >> 16
    reference = run(server.target, latents.astype(np.float32)).astype(int)
    for other in (
        run(server.target, latents.astype(np.float16)),
        run(server.target, bits.astype(np.uint16), dtype="bfloat16"),
    ):
        assert abs(other - reference).max() <= 1


@pytest.mark.parametrize("leave", ["break", "kill"])
def test_leaving_early_cancels_at_the_server(server: ServerProcess, leave: str, tmp_path: Path) -> None:
    """The server's log has the end of the session at once, with fewer frames than the clip."""

    async def leave_by_break() -> None:
        async with FrameClient(server.target) as client, client.session(make_latents(200)) as session:
            async for _ in session:
                break

    async def leave_by_kill() -> None:
        save_file({"latents": make_latents(200)}, tmp_path / "a.safetensors")
        arguments = ("stream", tmp_path / "a.safetensors", "--out", "-", "--target", server.target, "--quiet")
        process = await start_client(*arguments)
        assert process.stdout is not None
        assert await process.stdout.read(1)
        process.kill()
        await process.communicate()

    server.expect_idle()
    before = len(server.session_ends())
    asyncio.run(leave_by_break() if leave == "break" else leave_by_kill())
    wait_until(lambda: len(server.session_ends()) > before, "the session's end", 10)
    ended = server.session_ends()[before]
    assert ended["cause"] != "ok"
    assert int(ended["frames"]) < 800


def test_the_command_makes_a_video(server: ServerProcess, tmp_path: Path) -> None:
    """latents in, video.mp4 out; the report adds up."""
    save_file({"latents": make_latents(6)}, tmp_path / "a.safetensors", {"framehaul.fps": "24000/1001"})
    outcome = stream(server, tmp_path / "a.safetensors", "--out", tmp_path / "v.mp4", "--json")
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert (report["num_frames"], report["width"], report["height"]) == (24, WIDTH * 8, HEIGHT * 8)
    assert sum(report["timeline"].values()) == pytest.approx(report["total_s"], abs=1e-4)
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert len(list(container.decode(video=0))) == 24


def test_images_equal_the_python_api(server: ServerProcess, tmp_path: Path) -> None:
    """Both ways to the frames give the same bytes."""
    latents = make_latents(2)
    save_file({"latents": latents}, tmp_path / "a.safetensors")
    outcome = stream(server, tmp_path / "a.safetensors", "--out", tmp_path / "%d.png", "--quiet")
    assert outcome.code == 0, outcome.err
    for index, frame in enumerate(run(server.target, latents)):
        with Image.open(tmp_path / f"{index}.png") as image:
            assert np.array_equal(np.asarray(image), frame)


def test_graded_outputs_equal_the_python_api(server: ServerProcess, tmp_path: Path) -> None:
    """OpenEXR bit for bit, PNG to its 16 bits, 10-bit video and stdout bit for bit; each by the natural format."""
    latents = make_latents(2)
    save_file({"latents": latents}, tmp_path / "a.safetensors")
    half = run(server.target, latents, pixel_format="gbrpf16le")
    deep = run(server.target, latents, pixel_format="yuv420p10le")

    def to(out: str, *options: str) -> Outcome:
        outcome = stream(server, tmp_path / "a.safetensors", "--out", out, "--quiet", *options)
        assert outcome.code == 0, outcome.err
        return outcome

    to(str(tmp_path / "%d.exr"))
    to(str(tmp_path / "%d.png"), "--format", "gbrpf16le")
    to(str(tmp_path / "v.mp4"), "--format", "yuv420p10le", "--crf", "0")
    (tmp_path / "v.mkv").write_bytes(to("-", "--format", "yuv420p10le").out)
    for index, planes in enumerate(half):
        with OpenEXR.File(str(tmp_path / f"{index}.exr"), separate_channels=True) as file:
            for name, plane in zip("GBR", planes, strict=True):
                assert np.array_equal(file.channels()[name].pixels.view(np.uint16), plane.view(np.uint16))
        with av.open(str(tmp_path / f"{index}.png")) as container:
            levels = next(container.decode(video=0)).to_ndarray()
        assert np.array_equal(levels, np.rint(planes[[2, 0, 1]].transpose(1, 2, 0).astype(np.float64) * 65535))
    for name in ("v.mp4", "v.mkv"):
        with av.open(str(tmp_path / name)) as container:
            assert np.array_equal(np.stack([frame.to_ndarray() for frame in container.decode(video=0)]), deep)


def test_the_sample_clip_streams(server: ServerProcess, tmp_path: Path) -> None:
    """Without a file it streams the clip that ships with the client: pictures, not noise."""
    outcome = stream(server, "--out", tmp_path / "v.mp4", "--json", "--preset", "ultrafast")
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert report["num_frames"] == 84
    with av.open(str(tmp_path / "v.mp4")) as container:
        pictures = [frame.to_ndarray(format="gray").astype(float) for frame in container.decode(video=0)]
    assert len(pictures) == 84
    for first, second in itertools.pairwise(pictures):
        assert first.std() > 3
        assert abs(first - second).mean() < 60


def test_info_says_what_the_server_offers(server: ServerProcess) -> None:
    """The model's factors are those that the frames above have."""
    outcome = asyncio.run(run_client("info", "--json", "--target", server.target))
    info = json.loads(outcome.out)
    model = info["models"][0]
    assert (model["name"], model["channels"], model["spatial_factor"]) == ("tiny", 16, 8)
    assert info["pixel_formats"] == ["rgb24", "yuv420p", "yuv420p10le", "gbrpf16le"]


# Bad input


def file_nan(path: Path) -> None:
    latents = make_latents()
    latents[3, 0, 0, 0] = np.nan
    save_file({"latents": latents}, path)


def file_infinity(path: Path) -> None:
    latents = make_latents()
    latents[3, 0, 0, 0] = np.inf
    save_file({"latents": latents}, path)


def file_channels(path: Path) -> None:
    save_file({"latents": np.zeros((3, 5, HEIGHT, WIDTH), np.float16)}, path)


def file_huge(path: Path) -> None:
    save_file({"latents": np.zeros((1, 16, 500, 500), np.float16)}, path)


def file_model(path: Path) -> None:
    save_file({"latents": make_latents()}, path, {"framehaul.model": "nosuch"})


def file_missing(path: Path) -> None:
    """Nothing is there."""


def file_truncated(path: Path) -> None:
    save_file({"latents": make_latents()}, path)
    os.truncate(path, path.stat().st_size - 100)


def file_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(b"0" * 1000))


def file_name(path: Path) -> None:
    save_file({"y": make_latents(), "z": make_latents()}, path)


def file_rank(path: Path) -> None:
    save_file({"latents": make_latents()[0]}, path)


def file_dtype(path: Path) -> None:
    save_file({"latents": make_latents().astype(np.float64)}, path)


def file_good(path: Path) -> None:
    save_file({"latents": make_latents()}, path)


ROWS = [
    (file_nan, "v.mp4", (), 2, "latents"),
    (file_infinity, "v.mp4", (), 2, "latents"),
    (file_channels, "v.mp4", (), 2, "channels=5"),
    (file_huge, "v.mp4", (), 2, "4000"),
    (file_model, "v.mp4", (), 2, "nosuch"),
    (file_good, "v.mp4", ("--model", "other"), 2, "other"),
    (file_missing, "v.mp4", (), 2, "a.safetensors: No such file or directory"),
    (file_truncated, "v.mp4", (), 2, "a.safetensors: cut off: tensor 'latents' ends at byte"),
    (file_pickle, "v.mp4", (), 2, "a.safetensors: a pickle or PyTorch file"),
    (file_name, "v.mp4", (), 2, "tensor 'latents' is missing: it holds 'y', 'z' (--tensor names one)"),
    (file_rank, "v.mp4", (), 2, "must be [T, C, h, w]"),
    (file_dtype, "v.mp4", (), 2, "dtype F64: must be F16, BF16 or F32"),
    (file_good, "v.avi", (), 2, "out="),
    (file_good, "%d.png", ("--format", "yuv420p"), 2, "must be rgb24 or gbrpf16le"),
    (file_good, "v.mp4", ("--codec", "nosuch"), 2, "codec=nosuch"),
    (file_good, "v.mp4", ("--preset", "nosuch"), 2, "preset=nosuch"),
    (file_good, "a.safetensors/v.mp4", (), 6, "a file is in its way"),
    (file_good, "v.mp4", ("--target", "127.0.0.1:9", "--connect-timeout", "0.3"), 3, "127.0.0.1:9: no server answered"),
]


@pytest.mark.parametrize(
    ("make", "out", "options", "code", "message"), ROWS, ids=[f"{row[0].__name__} {row[1]}" for row in ROWS]
)
def test_bad_input_is_named_and_harms_nobody(
    server: ServerProcess, tmp_path: Path, make: Any, out: str, options: tuple[str, ...], code: int, message: str
) -> None:
    """One line with the field, its exit code, no output; and the next good session works."""
    path = tmp_path / "a.safetensors"
    make(path)
    arguments = ("stream", path, "--out", tmp_path / out, "--target", server.target, *options)
    outcome = asyncio.run(run_client(*arguments, "--quiet"))
    assert outcome.code == code, outcome.err
    lines = [line for line in outcome.err.splitlines() if line.startswith("client: ")]
    assert message in lines[-1]
    assert "Traceback" not in outcome.err
    assert not (tmp_path / out).exists()
    assert len(run(server.target, make_latents(1))) == 4


def test_python_errors_are_typed(server: ServerProcess) -> None:
    """A render farm tells them apart by class."""
    with pytest.raises(NotFound, match="nosuch"):
        run(server.target, make_latents(), model="nosuch")
    nan = make_latents()
    nan[2] = np.nan
    with pytest.raises(InvalidRequest, match="latents"):
        run(server.target, nan)
