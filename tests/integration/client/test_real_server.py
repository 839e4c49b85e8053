"""The whole path: client, server, worker, model, on the CPU."""

import asyncio
import importlib.util
import itertools
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import OpenEXR
import pytest
from safetensors.numpy import save_file

from framehaul_client import FrameClient, InvalidRequest, NotFound
from framehaul_client.core.info import ServerInfo
from tests.support.client_command import Outcome, run_client
from tests.support.clips import Clip, decode, make_clip
from tests.support.server_process import SAME_CHUNKS, ServerProcess, running_server

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


async def info(server: ServerProcess) -> ServerInfo:
    async with FrameClient(server.target) as client:
        return await client.info()


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


@pytest.mark.parametrize("out", ["v.mkv", "%02d.png"])
def test_a_clip_over_several_sessions_is_the_same_clip(server: ServerProcess, tmp_path: Path, out: str) -> None:
    """Bit for bit, where sessions are reproducible; at one server, or at several in turns."""
    save_file({"latents": make_latents(20)}, tmp_path / "clip.safetensors")
    codec = ("--codec", "ffv1") if out == "v.mkv" else ()
    given = (tmp_path / "clip.safetensors", "--reproducible", *codec)
    assert stream(server, *given, "--out", tmp_path / "one" / out).code == 0
    target = f"{server.target},{server.target}"
    many = asyncio.run(
        run_client("stream", *given, "--out", tmp_path / "many" / out, "--across", 3, "--target", target)
    )
    assert many.code == 0, many.err
    assert pictures(tmp_path / "one").shape == (80, HEIGHT * 8, WIDTH * 8, 3)
    assert np.array_equal(pictures(tmp_path / "many"), pictures(tmp_path / "one"))


def pictures(folder: Path) -> np.ndarray[Any, Any]:
    found = []
    for path in sorted(folder.iterdir()):
        with av.open(str(path)) as container:
            found += [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(found)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--across", 3), "across=3: 5 latents are too few for 3 parts"),
        (("--across", 2, "--encoder-option", "b=2M"), "b=2M: is kept over a whole clip"),
        (("--across", 2, "--trace", "t.pftrace"), "across=2: is of a whole clip, and not traced: leave out --trace"),
        (("--across", 2, "--model", "gone"), "model=gone: must be tiny"),
    ],
)
def test_a_clip_that_cant_be_cut_is_refused(
    server: ServerProcess, tmp_path: Path, options: tuple[Any, ...], text: str
) -> None:
    """With what is in the way."""
    save_file({"latents": make_latents()}, tmp_path / "clip.safetensors")
    outcome = stream(server, tmp_path / "clip.safetensors", "--out", tmp_path / "v.mp4", *options)
    assert outcome.code == 2
    assert text in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["clip.safetensors"]


def test_parts_that_are_decoded_cold_are_clips_of_their_own(server: ServerProcess) -> None:
    """One after the other in one video, as near as rounding in chunks of other lengths allows; and resumed in one."""
    latents = make_latents()
    parts = np.concatenate([run(server.target, part) for part in (latents[:2], latents[2:4], latents[4:])])
    frames = run(server.target, latents, restart_latents=2)
    assert np.abs(frames.astype(int) - parts).max() <= 1
    assert np.abs(frames[8:].astype(int) - run(server.target, latents)[8:]).max() > 1


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


NAN = make_latents()
NAN[3, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("latents", "options", "message"),
    [
        (NAN, (), "latents=NaN or infinity at element 0 of latent 3"),
        (np.zeros((3, 5, HEIGHT, WIDTH), np.float16), (), "channels=5"),
        (np.zeros((1, 16, 500, 500), np.float16), (), "4000"),
        (make_latents(), ("--model", "other"), "other"),
    ],
)
def test_bad_input_is_named_and_harms_nobody(
    server: ServerProcess, tmp_path: Path, latents: Clip, options: tuple[str, ...], message: str
) -> None:
    """One line with the field, exit code 2, no output; and the next good session works."""
    save_file({"latents": latents}, tmp_path / "a.safetensors")
    outcome = stream(server, tmp_path / "a.safetensors", "--out", tmp_path / "v.mp4", "--quiet", *options)
    assert outcome.code == 2, outcome.err
    lines = [line for line in outcome.err.splitlines() if line.startswith("client: ")]
    assert message in lines[-1]
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "v.mp4").exists()
    assert len(run(server.target, make_latents(1))) == 4


def test_python_errors_are_typed(server: ServerProcess) -> None:
    """A render farm tells them apart by class."""
    with pytest.raises(NotFound, match="nosuch"):
        run(server.target, make_latents(), model="nosuch")
    nan = make_latents()
    nan[2] = np.nan
    with pytest.raises(InvalidRequest, match="latents"):
        run(server.target, nan)


TEMPLATE = Path(__file__).parents[3] / "deploy/openjd/decode.yaml"


def test_a_part_of_a_clip_is_the_clips_own_frames(server: ServerProcess, tmp_path: Path) -> None:
    """Bit for bit, by the clip's numbers, of a file and of a pipe; latents before what it looks back at aren't sent."""
    latents = make_latents(14)
    save_file({"latents": latents}, tmp_path / "a.safetensors")
    whole = run(server.target, latents, reproducible=True)
    part = ("--frames", "37-42", "--reproducible", "--json")
    outcome = stream(server, tmp_path / "a.safetensors", "--out", tmp_path / "f" / "%d.png", *part)
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert (report["num_frames"], report["num_latents"]) == (6, 6)
    assert report["latent_bytes"] == (1 + 4 + 1) * latents[0].nbytes, (
        "the latents of frames 37 to 42, and 4 before them"
    )
    assert {path.name for path in (tmp_path / "f").iterdir()} == {f"{index}.png" for index in range(37, 43)}
    for index in range(37, 43):
        with av.open(str(tmp_path / "f" / f"{index}.png")) as container:
            assert np.array_equal(next(container.decode(video=0)).to_ndarray(format="rgb24"), whole[index])
    assert np.array_equal(
        run(server.target, iter(latents), reproducible=True, start_frame=37, num_latents=14), whole[37:]
    )
    (model,) = asyncio.run(info(server)).models
    (rate,) = [each for each in model.rates if (each.width, each.height) == (WIDTH * 8, HEIGHT * 8)]
    assert rate.num_frames > 0, "measured in service"
    assert 0 < rate.kernels_s <= rate.device_s
    outcome = stream(server, tmp_path / "a.safetensors", "--out", tmp_path / "v.mp4", "--frames", "37-56")
    assert (outcome.code, outcome.out) == (2, b"")
    assert "client: frames=37-56: must be within 0-55, the clip's frames\n" in outcome.err


@pytest.mark.skipif(importlib.util.find_spec("openjd") is None, reason="openjd is not installed")
def test_open_job_description_runs_the_farms_template(server: ServerProcess, tmp_path: Path) -> None:
    """A task a chunk; every frame once, under its number; its runtime takes our progress for what it is."""
    save_file({"latents": make_latents(5)}, tmp_path / "a.safetensors")
    client = tmp_path / "framehaul-client"
    client.write_text(f'#!/bin/sh\nexec {sys.executable} -m framehaul_client "$@"\n')
    client.chmod(0o755)
    parameters = {"Latents": tmp_path / "a.safetensors", "Out": tmp_path / "out", "Name": "%04d.png", "Frames": "2-11"}
    parameters |= {"ChunkSize": 5, "Target": server.target, "Client": client}
    given = itertools.chain.from_iterable(("-p", f"{name}={value}") for name, value in parameters.items())
    done = subprocess.run(
        [sys.executable, "-m", "openjd", "run", TEMPLATE, "--step", "Decode", *given],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{index:04d}.png" for index in range(2, 12)]
    assert len(re.findall(r"openjd_status: done\n.*openjd_progress: 100\.0", done.stdout)) == 2, done.stdout
