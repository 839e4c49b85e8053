"""What `pipeline encode` reads of a video is what Debian's ffmpeg shows of it, or a line says what is not.

Each case is a file of toy size, made by ffmpeg or from what ffmpeg made. `AS_FFMPEG_TABLE=FILE` writes the table.
"""

import logging
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from framehaul_pipeline.encode.video_input import Excerpt, VideoInput
from framehaul_pipeline.errors import InvalidInput

pytestmark = pytest.mark.skipif(
    shutil.which("ffmpeg") is None and os.environ.get("FAIL_WITHOUT_FFMPEG") != "1",
    reason="ffmpeg is not installed; FAIL_WITHOUT_FFMPEG=1 fails instead",
)

Frames = NDArray[np.uint8]

X264 = "-c:v libx264 -preset ultrafast -qp 4 -pix_fmt yuv420p"
X444 = "-c:v libx264 -preset ultrafast -qp 4 -pix_fmt yuv444p"
"""Scaled, ffmpeg 5's edges of shared chroma differ from those of the FFmpeg that PyAV has."""
TEST = "testsrc2=s=96x64:r=24:d=0.5"
HDR_TO_SDR = (
    "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:param=0.8:desat=0:peak=4.926,"
    "zscale=t=bt709:m=bt709:r=tv"
)
UPRIGHT = {
    "identity": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "upside-down": (1, 0, 0, -1),
    "turned-180": (-1, 0, 0, -1),
    "turned-90": (0, 1, -1, 0),
    "turned-270": (0, -1, 1, 0),
    "transposed": (0, 1, 1, 0),
    "transversed": (0, -1, -1, 0),
}
OBLIQUE = {"turned-30": (0.866, 0.5, -0.5, 0.866), "nothing": (0, 0, 0, 0)}


def _matrix(name: str) -> Callable[[bytes], bytes]:
    """Write a display matrix into an mp4's track header."""

    def edit(content: bytes) -> bytes:
        a, b, c, d = (int(value * 65536) for value in (UPRIGHT | OBLIQUE)[name])
        at = content.index(b"tkhd") + 44
        return content[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + content[at + 36 :]

    return edit


def _cut(content: bytes) -> bytes:
    return content[: len(content) * 6 // 10]


def _holes(content: bytes) -> bytes:
    """Zeros in the middle."""
    at = len(content) // 2
    return content[:at] + bytes(400) + content[at + 400 :]


def _twice(content: bytes) -> bytes:
    return content * 2


@dataclass(frozen=True)
class Case:
    """A file, and how ffmpeg shows it.

    Attributes:
        name: of the file, its ending the container.
        source: of ffmpeg's arguments, what is read.
        codec: how it is written.
        edit: what is done to the file's bytes then.
        shown: ffmpeg's filters that show the file as it should be; most are its own default.
        tolerance: mean difference of 255 that a frame may have.
        slack: how many frames more or less there may be.
        early: how many frames ffmpeg may be ahead or behind. Debian's doesn't use frames' durations.
        says: what a line or an error must say, if anything; an error's frames aren't compared.
        refused: it must be an error.
    """

    name: str
    source: str = f"-f lavfi -i {TEST}"
    codec: str = X264
    edit: Callable[[bytes], bytes] | None = None
    shown: str = "null"
    tolerance: float = 1.0
    slack: int = 0
    early: int = 0
    says: str = ""
    refused: bool = False


def _vfr(keep: str, rate: int = 60, length: float = 1.0) -> str:
    return f"-f lavfi -i testsrc2=s=96x64:r={rate}:d={length} -vf select='{keep}' -fps_mode vfr"


X265 = "-c:v libx265 -preset ultrafast -x265-params log-level=error:crf=4"
SOUND = "-f lavfi -i sine=d=0.8"
TWO = f"-f lavfi -i {TEST} -f lavfi -i testsrc=s=128x96:r=12:d=0.5 -map 0 -map 1"

CASES = [
    # Turned and mirrored: all eight.
    *(Case(f"{name}.mp4", edit=_matrix(name)) for name in UPRIGHT),
    Case("turned-90-oblong.mp4", codec=f"-vf setsar=4/3 {X444}", edit=_matrix("turned-90"), shown="scale=64:128"),
    Case("turned-30.mp4", edit=_matrix("turned-30"), tolerance=255, says="of its rotation by -30 degrees"),
    Case("nothing.mp4", edit=_matrix("nothing")),
    # Pixels that aren't square.
    *(
        Case(f"sar-{name}.{kind}", codec=f"-vf setsar={sar} {X444}", shown="scale=round(iw*sar):ih")
        for name, sar, kind in [
            ("4-3", "4/3", "mp4"),
            ("16-15", "16/15", "mkv"),
            ("8-9", "8/9", "mp4"),
            ("16-11", "16/11", "ts"),
            ("1-2", "1/2", "mov"),
        ]
    ),
    Case("sar-nonsense.mkv", codec=f"-vf setsar=100/1 {X264}", says="pixel aspect of 100:1 is not applied"),
    # Sizes, depths, ranges and layouts of samples.
    Case("odd.mkv", source="-f lavfi -i testsrc2=s=99x67:r=24:d=0.3", codec="-c:v ffv1 -pix_fmt yuv444p"),
    Case("full-range.mp4", codec=f"-vf scale=out_range=full {X264} -color_range pc"),
    Case("mjpeg.avi", codec="-c:v mjpeg -q:v 2 -pix_fmt yuvj420p"),
    Case("ten-bits.mp4", codec=f"{X444}10le"),
    Case("ten-bits-420.mp4", codec=f"{X264}10le", tolerance=5),
    Case("twelve-bits.mkv", codec="-c:v ffv1 -pix_fmt yuv444p12le"),
    Case("422.mov", codec="-c:v prores_ks -pix_fmt yuv422p10le"),
    Case("grey.mkv", codec="-c:v ffv1 -pix_fmt gray"),
    Case("rgb.mkv", codec="-c:v ffv1 -pix_fmt bgr0"),
    Case("deep-rgb.mkv", codec="-c:v ffv1 -pix_fmt gbrp10le"),
    Case("bt709.mp4", codec=f"-vf scale=out_color_matrix=bt709 {X264} -colorspace bt709"),
    Case("bt601.mp4", codec=f"{X264} -colorspace smpte170m"),
    Case("wide-gamut.mp4", codec=f"{X265} -pix_fmt yuv444p10le -colorspace bt2020nc -color_primaries bt2020"),
    Case("alpha.mov", codec="-c:v qtrle -pix_fmt argb", says="transparency is left out"),
    Case("palette.gif", codec="-f gif", says="transparency is left out", slack=1),
    # Light.
    *(
        Case(
            f"{name}.mov",
            source=f"-f lavfi -i {TEST.replace('0.5', '0.1')}",
            codec=f"-vf scale=out_color_matrix=bt2020nc -pix_fmt yuv444p10le "
            f"{X265}:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc",
            shown=HDR_TO_SDR,
            tolerance=4.0,
            says=f"high dynamic range ({name.upper()})",
        )
        for name, transfer in [("pq", "smpte2084"), ("hlg", "arib-std-b67")]
    ),
    # Fields.
    *(
        Case(
            f"fields-{order}.{kind}",
            source="-f lavfi -i testsrc2=s=96x64:r=50:d=0.5",
            codec=f"-vf interlace=scan={order} {codec}",
            shown="bwdif=mode=send_frame:deint=interlaced",
            tolerance=3,  # the first frame, which has none before it: ffmpeg 5 makes its lines otherwise
        )
        for order, kind, codec in [
            ("tff", "mp4", f"{X264} -flags +ilme+ildct"),
            ("bff", "mkv", f"{X264} -flags +ilme+ildct -x264opts bff=1"),
            ("tff", "mpg", "-c:v mpeg2video -q:v 2 -flags +ilme+ildct"),
        ]
    ),
    # Rates and time stamps.
    Case("23.976.mkv", source="-f lavfi -i testsrc2=s=96x64:r=24000/1001:d=1"),
    Case("59.94.ts", source="-f lavfi -i testsrc2=s=96x64:r=60000/1001:d=0.5"),
    Case("120.mp4", source="-f lavfi -i testsrc2=s=96x64:r=120:d=0.2"),
    Case("2000.mp4", source="-f lavfi -i testsrc2=s=96x64:r=2000:d=0.1", slack=1),
    Case("one-a-second.mp4", source="-f lavfi -i testsrc2=s=96x64:r=1:d=4"),
    Case("pause.mp4", early=1, source=_vfr("lt(n,20)+gte(n,50)")),
    Case("pause.mkv", early=1, source=_vfr("lt(n,20)+gte(n,50)")),
    Case("pause-at-start.mp4", early=1, source=_vfr("eq(n,0)+gte(n,30)")),
    Case("pause-at-end.mp4", source=_vfr("lt(n,20)+eq(n,55)"), early=1, slack=1),
    Case("thinning.mp4", source=_vfr("not(mod(n,1+floor(n/20)))"), early=1, slack=1),
    Case("dropped.mkv", early=1, source=_vfr("not(eq(mod(n,7),3))", 30)),
    Case("dropped.ts", early=1, source=_vfr("not(eq(mod(n,7),3))", 25)),
    Case(
        "jittered.webm",
        source="-f lavfi -i testsrc2=s=96x64:d=1:r=30 -vf settb=1/1000,setpts=PTS+floor(random(0)*12) -fps_mode vfr",
        codec="-c:v libvpx -threads 1 -b:v 2M",
    ),
    Case("delays.gif", source=_vfr("eq(n,0)+eq(n,4)+eq(n,6)+eq(n,9)", 10), codec="-f gif", early=1, slack=1),
    Case("late.mkv", source=f"-itsoffset 5 -f lavfi -i {TEST}"),
    Case("late.ts", source=f"-itsoffset 5 -f lavfi -i {TEST}"),
    Case("late-to-sound.mkv", early=1, source=f"{SOUND} -itsoffset 0.25 -f lavfi -i {TEST}"),
    Case("sound-first.mp4", source=f"{SOUND} -itsoffset 0.25 -f lavfi -i {TEST}"),
    Case("b-frames.mp4", codec="-c:v libx264 -qp 4 -pix_fmt yuv420p -bf 3"),
    Case("edit-list.mp4", source="-ss 0.3 -i FULL", codec="-c copy"),
    Case("fragments.mp4", codec=f"{X264} -g 6 -movflags frag_keyframe+empty_moov"),
    Case("no-stamps.264"),
    Case("no-stamps.avi", early=1, codec="-c:v mpeg4 -q:v 2 -bf 2"),
    Case("joined.ts", edit=_twice, slack=1),
    Case("raw.y4m", codec="-pix_fmt yuv420p"),
    Case("flash.flv", codec="-c:v flv -q:v 2"),
    Case("windows.wmv", codec="-c:v wmv2 -q:v 2"),
    Case("theora.ogv", codec="-c:v libtheora -q:v 9"),
    Case("vp9.webm", codec="-c:v libvpx-vp9 -threads 1 -b:v 2M -cpu-used 8"),
    Case("one-frame.mp4", codec=f"-frames:v 1 {X264}"),
    Case("still.png", codec="-frames:v 1"),
    # Several streams.
    Case("two-videos.mkv", source=TWO, says="of its 2 videos"),
    Case("second-default.mkv", source=TWO, codec=f"{X264} -disposition:0 0 -disposition:1 default", says="stream 1"),
    Case("cover.m4a", source=f"{SOUND} -f lavfi -i testsrc2=s=96x96:d=1 -map 0 -map 1 -frames:v 1",
         codec="-c:v png -disposition:v attached_pic", says="a file with a video stream", refused=True),
    Case("cover-and-video.mp4", source=f"-f lavfi -i {TEST} -f lavfi -i testsrc=s=300x300:d=1 -map 0 -map 1",
         codec="-c:v:0 libx264 -pix_fmt yuv420p -qp 4 -c:v:1 png -frames:v:1 1 -disposition:v:1 attached_pic"),
    # Damage.
    Case("cut-index-first.mp4", codec=f"{X264} -movflags +faststart", edit=_cut, says="of 12 frames", refused=True),
    Case("cut-late.mp4", source=f"{SOUND} -itsoffset 0.25 -f lavfi -i {TEST}", codec=f"{X264} -movflags +faststart",
         edit=_cut, says="of 18 frames", refused=True),
    Case("cut-index-last.mp4", edit=_cut, says="readable video file", refused=True),
    Case("cut.mkv", edit=_cut, says="cut off after", refused=True),
    Case("cut.webm", codec="-c:v libvpx -threads 1 -b:v 2M", edit=_cut, says="cut off after", refused=True),
    Case("cut.avi", codec="-c:v mpeg4 -q:v 2", edit=_cut, says="of 12 frames", refused=True),
    Case("cut.flv", codec="-c:v flv -q:v 2", edit=_cut, says="it may be cut off"),
    Case("cut.gif", codec="-c:v gif", edit=_cut, tolerance=255, slack=1, says="it is cut off"),
    Case("cut.jpg", codec="-frames:v 1 -c:v mjpeg -q:v 2", edit=_cut, tolerance=20, says="it has damaged frames"),
    Case("holes.mjpeg", codec="-c:v mjpeg -q:v 2", edit=_holes, tolerance=20, says="it has damaged frames"),
    Case("cut.y4m", codec="-pix_fmt yuv420p", edit=_cut, says="it is cut off"),
    Case("cut.ogv", codec="-c:v libtheora -q:v 9", edit=_cut, says="it is cut off"),
    Case("cut.ts", edit=_cut, slack=1, tolerance=20, says="it has damaged frames"),
    Case("holes.ts", codec=f"{X264} -g 4", edit=_holes, slack=1, tolerance=20, says="it has damaged frames"),
    Case("holes.mp4", codec=f"{X264} -g 4", edit=_holes, slack=1, tolerance=20, says="it has damaged frames"),
    Case("holes.mkv", codec="-c:v ffv1 -slicecrc 1", edit=_holes, says="it may be cut off"),
    Case("holes.mov", codec="-c:v png", edit=_holes, early=1, slack=1, says="could not be decoded"),
]  # fmt: skip


def _run(arguments: str) -> bytes:
    done = subprocess.run(
        ["ffmpeg", "-v", "error", "-nostdin", "-threads", "1", "-y", *arguments.split()],
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.stdout


def _make(case: Case, folder: Path) -> Path:
    path = folder / case.name
    full = folder / "full.mp4"
    _run(f"{case.source} {case.codec} {path}".replace("FULL", str(full)))
    if case.edit:
        path.write_bytes(case.edit(path.read_bytes()))
    return path


def _ffmpegs(path: Path, shown: str, size: tuple[int, int], rate: str) -> Frames:
    """ffmpeg's frames, its middle cut out as ours is."""
    width, height = size
    raw = _run(f"-i {path} -an -vf {shown},format=rgb24,crop={width}:{height} -fps_mode cfr -r {rate} -f rawvideo -")
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def _ours(path: Path) -> tuple[Frames, str]:
    with VideoInput(str(path), None, Excerpt()) as video:
        chunks = [chunk.copy() for chunk in video.chunks(16, 1)]
        return np.concatenate(chunks), str(video.fps)


def _difference(ours: Frames, theirs: Frames, early: int) -> float:
    """The worst frame's mean difference to what ffmpeg shows there, or up to `early` frames from there."""
    worst = 0.0
    for index, frame in enumerate(ours[: len(theirs)]):
        near = theirs[max(0, index - early) : index + early + 1]
        worst = max(worst, np.abs(near.astype(np.int16) - frame).mean(axis=(1, 2, 3)).min())
    return worst


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All files, made two at a time."""
    folder = tmp_path_factory.mktemp("videos")
    _run(f"-f lavfi -i testsrc2=s=96x64:r=24:d=1 {X264} -g 12 {folder / 'full.mp4'}")
    with ThreadPoolExecutor(2) as pool:
        return {path.name: path for path in pool.map(_make, CASES, [folder] * len(CASES))}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_video_is_read_as_ffmpeg_shows_it(made: dict[str, Path], case: Case, caplog: pytest.LogCaptureFixture) -> None:
    """As many frames, and at each place the same picture; or a line that says why not."""
    path = made[case.name]
    caplog.set_level(logging.WARNING)
    if case.refused:
        with pytest.raises(InvalidInput, match=case.says) as refused:
            _ours(path)
        _note(case, "-", "refused", "-", str(refused.value).replace(str(path), case.name))
        return
    ours, rate = _ours(path)
    said = "; ".join(caplog.messages).replace(str(path), case.name)
    theirs = _ffmpegs(path, case.shown, (ours.shape[2], ours.shape[1]), rate)
    difference = _difference(ours, theirs, case.early)
    _note(case, len(theirs), len(ours), f"{difference:.2f}", said)
    assert case.says in said
    assert abs(len(ours) - len(theirs)) <= case.slack
    assert difference <= case.tolerance


def _note(case: Case, *row: object) -> None:
    if table := os.environ.get("AS_FFMPEG_TABLE"):
        with open(table, "a") as file:
            file.write(" | ".join([case.name, *map(str, row)]) + "\n")
