"""The command line: one table of options, from which argparse takes their rows and the commands their values."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import partial
from typing import Any, Final

from framehaul.address import Address
from framehaul.formats import PixelFormat, parse_size
from framehaul.options import CommandParser, file_name, named_value, option_type, reader
from framehaul_client.access import (
    CA_VARIABLE,
    CERT_VARIABLE,
    KEY_VARIABLE,
    SERVER_NAME_VARIABLE,
    TLS_VARIABLE,
    TOKEN_FILE_VARIABLE,
    TOKEN_VARIABLE,
    Access,
)
from framehaul_client.command.exits import AGAIN, MEANINGS
from framehaul_client.command.progress import Style
from framehaul_client.command.snapshots import DEFAULT_ADDRESS, MetricsAddress
from framehaul_client.core.highlights import CUTS, MAX_EXCERPTS, MAX_SECONDS, parse_shape, within
from framehaul_client.core.latents import Layout
from framehaul_client.core.session_config import (
    DEFAULT_CONNECT_TIMEOUT_S,
    DEFAULT_RETRY_FOR_S,
    DEFAULT_STALL_TIMEOUT_S,
    DEFAULT_TARGET,
    TARGET_VARIABLE,
    check_priority,
    check_retry_for,
    check_stall_timeout,
    check_target,
    parse_fps,
)
from framehaul_client.sinks.choice import STDOUT
from framehaul_client.sinks.containers import CONTAINERS
from framehaul_client.sinks.video_options import DEFAULT_CRF, DEFAULT_PRESET
from framehaul_client.source.latents_file import DEFAULT_TENSOR

DEBUG_VARIABLE: Final = "FRAMEHAUL_DEBUG"
DEFAULT_FPS: Final = Fraction(24)
_DEFAULT_TIMEOUT_S: Final = 60.0
_MOST_PARTS: Final = 64

_EXIT_CODES: Final = "exit codes; those with * are worth another try:\n" + "\n".join(
    f"  {code.value:<4}{'*' if code in AGAIN else ' '} {meaning}" for code, meaning in MEANINGS.items()
)
_EXAMPLES: Final = """\
examples:
  client stream --out video.mp4                         the sample clip, from a server on this machine
  client stream clip.safetensors --out video.mp4 --target gpu7:50051 --crf 14 --preset slow
  client stream clip.safetensors --out - | ffplay -     watch it while it is decoded
  client stream clip.safetensors --out video.mp4 --live                       a file that plays while it grows
  client stream clip.safetensors --out video.mp4 --audio track.wav
  client stream clip.safetensors --out 'frames/%06d.png'
  client stream clip.safetensors --out 'plates/%06d.exr'                      half floats, for grading
  client stream clip.safetensors --out master.mp4 --format yuv420p10le        10 bits
"""
_PROBE_EXAMPLES: Final = """\
examples:
  client probe                                          one run at the server on this machine
  client probe gpu7:50051 gpu8:50051 --every 30 --json  a line for each run, until Ctrl-C
  client probe gpu7:50051 --ca ca.pem --token-file probe.token --every 30 --metrics 127.0.0.1:9464
"""
_HIGHLIGHT_EXAMPLES: Final = """\
examples:
  client highlight long.mp4 --image can.jpg --out clip.mp4               the 5 s that show it, with their sound
  client highlight long.mp4 --image can.jpg --image side.jpg --clips 3 --out clip.mp4    clip-1.mp4, clip-2.mp4, ...
  client highlight long.mp4 --image can.jpg --dry-run --json - --plot scores.png         the scores alone
  client highlight server:films/a.mp4 --text "red striped can" --out clip.mp4            a film that the server has
  client highlight long.mp4 --image can.jpg --crop 9:16 --out tall.mp4                   the subject kept in view
  client highlight long.mp4 --saliency map.mp4                                           where people look
"""
COMMANDS: Final[dict[str, dict[str, Any]]] = {
    "stream": {
        "help": "decode latents to a video",
        "description": "Streams latents to a server and writes the decoded frames.\n\n"
        "A file appears under its name only when it is whole (but for --live), and then replaces what had that "
        "name;\n"
        "until then it is NAME.xxxxxx.partial beside it. Pipes and devices are written to as they are, and of a\n"
        "symbolic link the file that it leads to.\n\n"
        "A server that has no place for the session yet keeps it in a queue; where it stands there is told on "
        "stderr.\n\n"
        "When the connection is lost, or the server or its worker ends, the session is taken up again where the\n"
        "frames stopped, for as long as --retry-for says; what happens is told on stderr.",
        "epilog": f"{_EXAMPLES}\n{_EXIT_CODES}",
    },
    "highlight": {
        "help": "cut the seconds out of a long video that show a product",
        "description": "Sends a film to a server, which compares it with pictures of a product, or with a text, and "
        "says which\nseconds show it best. Those are cut out of the film as it is, with its sound: only the frames in "
        "front of the\nfirst key frame are encoded again, and the last few. With --crop, --no-copy and films of the "
        "server's, frames\ncome from the server instead, without sound.\n\n"
        "A match that hardly stands out is called weak.",
        "epilog": f"{_HIGHLIGHT_EXAMPLES}\n{_EXIT_CODES}",
    },
    "probe": {
        "help": "measure servers as a user meets them, once or again and again",
        "description": "Decodes a clip at each server in turn, over a new connection each time; checks the frames and "
        "drops them.\n"
        "Says when the first frame came, how many came a second, and how long it all took.\n\n"
        "A connection that is lost isn't taken up again, and a run that isn't over in time has failed. Failures are\n"
        "told and counted, and the probe goes on. Token and certificates are read anew for each run.\n\n"
        "After more than one run, a summary has percentiles of those that ended well.",
        "epilog": f"{_PROBE_EXAMPLES}\n{_EXIT_CODES}\n\n"
        "After several runs: 0 if all ended well, else the code of the last one that failed. That goes for Ctrl-C and\n"
        "SIGTERM too, unless they come before the first run is over. A run that isn't over in time counts as broken.",
    },
    "info": {
        "help": "say what a server offers",
        "description": "Says which models and formats a server offers, and its load.",
    },
    "models": {
        "help": "say which models a server has",
        "description": "Says for each model of a server how latents become frames: channels of a latent, pixels of one "
        "of its\ncells, frames, latents it looks ahead and back, what streamed frames equal, whether it undoes "
        "normalisation,\nand how much device memory a session holds.",
    },
    "trace": {
        "help": "write down what a server does for some seconds",
        "description": "Writes what a server and its worker do for some seconds into a file for Perfetto: what each "
        "session waits for,\neach chunk's way over the device, latents, frames and acknowledgements, and how full "
        "rings and windows are.\nThe server isn't restarted. Where it has tokens, this one's tenant must be allowed "
        "to (watch = true).\n\nOpen the file at https://ui.perfetto.dev, or draw it with client timeline. Needs the "
        "extra framehaul[observe].\nCtrl-C ends it sooner, and keeps what came.",
    },
    "timeline": {
        "help": "draw a trace",
        "description": "Draws a file of client trace, or of client stream --trace, such that what waits for what can "
        "be seen: a row for\neach session, coloured by what its next frame waits for, with the frames that are sent "
        "below it; the device's\nchunks and copies, and the time in which it has none; the client's encoder. Needs "
        "the extra framehaul[observe].",
    },
    "top": {
        "help": "watch what a server does",
        "description": "Shows what a server's page shows, in a terminal, once a second: what it is bound by, its last "
        "minute, and\nits sessions. q or Ctrl-C ends it. Needs framehaul[observe].",
    },
}
_ALL: Final = tuple(COMMANDS)
_DECODING: Final = ("stream", "probe")
_ACCESSED: Final = tuple(name for name in COMMANDS if name != "timeline")
"""Those that go to a server,"""
_ONLINE: Final = tuple(name for name in _ACCESSED if name != "top")
"""and those that speak gRPC with it."""
_JSON: Final = ("stream", "probe", "info", "models")
"""Those that say so much that a program may want it."""


def _option(*, commands: Sequence[str] = ("stream",), group: str = "", default: Any = None, **row: Any) -> Any:
    """One row of the table; `row` is for `add_argument`. What differs by command in there is a dict."""
    return field(default=default, metadata={"commands": commands, "group": group, "row": row})


_access_option: Final = partial(_option, commands=_ACCESSED, group="TLS and token")
_video_option: Final = partial(_option, group="video files")


_number: Final = reader(float, "a number")
_whole: Final = reader(int, "a whole number")


def _output(text: str) -> str:
    return STDOUT if text == "/dev/stdout" else file_name(text)


def _timeout_s(text: str) -> float:
    given = _number(text)
    if not 0 < given <= 3600:
        raise ValueError(f"{text}: must be over 0 and up to 3600 seconds")
    return given


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise ValueError(f"{text}: must be a whole number from 1")
    return int(text)


def _parts(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 2 <= int(text) <= _MOST_PARTS):
        raise ValueError(f"{text}: must be a whole number, 2..{_MOST_PARTS}")
    return int(text)


def _within(name: str, least: float, most: float, text: str) -> float:
    return within(name, _number(text), least, most)


def _frames(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    numbers = (first, last) if dash else (first, first)
    if not all(number.isascii() and number.isdecimal() and len(number) <= 12 for number in numbers):
        raise ValueError(f"{text}: must be A-B or A, the first and the last frame, counted from 0")
    if int(numbers[0]) > int(numbers[1]):
        raise ValueError(f"{text}: must be A-B with A at most B")
    return int(numbers[0]), int(numbers[1])


def _price(text: str) -> float:
    given = _number(text)
    if not 0 < given <= 1e6:
        raise ValueError(f"{text}: must be over 0 and up to 1000000")
    return given


def _trace_seconds(text: str) -> float:
    given = _number(text)
    if not 1 <= given <= 300:
        raise ValueError(f"{text}: must be 1..300 seconds")
    return given


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line said: one field an option, in the order of `--help`. `retry_for` is `--retry-for`.

    A probe without `targets` is of `target`, which then is the environment's or the default.
    """

    command: str
    targets: Sequence[str] = _option(
        commands=("probe",),
        default=(),
        nargs="*",
        type=option_type(check_target),
        metavar="HOST:PORT",
        help=f"the servers (default: ${TARGET_VARIABLE}, else {DEFAULT_TARGET})",
    )
    every: float | None = _option(
        commands=("probe",),
        type=option_type(_timeout_s),
        metavar="SECONDS",
        help="repeat, from the start of a run to the start of the next, until --count or Ctrl-C; after a run that took "
        "longer the next one begins at once",
    )
    count: int | None = _option(
        commands=("probe",),
        type=option_type(_count),
        metavar="N",
        help="runs at each server (default: 1; with --every no end)",
    )
    timeout: float = _option(
        commands=("probe",),
        default=_DEFAULT_TIMEOUT_S,
        type=option_type(_timeout_s),
        metavar="SECONDS",
        help="how long a run may take, with the time in the server's queue; then it has failed "
        f"(default: {_DEFAULT_TIMEOUT_S:g})",
    )
    latents: str | None = _option(
        commands=_DECODING,
        nargs={"stream": "?"},
        type=file_name,
        metavar={"stream": "LATENTS.safetensors", "probe": "FILE"},
        help={
            "stream": "latents [T, C, h, w] or [1, C, T, h, w], F16, BF16 or F32; a pipe, or - for stdin, if one "
            "latent comes after the other (default: the sample clip that ships with this client)",
            "probe": "latents to decode, [T, C, h, w] or [1, C, T, h, w], F16, BF16 or F32 (default: the sample clip "
            "that ships with this client)",
        },
    )
    num_latents: int | None = _option(
        commands=("probe",),
        type=option_type(_count),
        metavar="N",
        help="decode the first N of them (default: all)",
    )
    metrics: Address | None = _option(  # noqa: RUF009  a field, made once
        commands=("probe",),
        type=option_type(Address.parse),
        metavar="HOST:PORT",
        help="serve what was measured at http://HOST:PORT/metrics in Prometheus' format (needs framehaul[observe])",
    )
    metrics_insecure: bool = _option(
        commands=("probe",),
        default=False,
        action="store_true",
        help="serve them even where other machines reach them: in the clear, to everybody",
    )
    file: str = _option(
        commands=("timeline",),
        default="",
        nargs=None,
        type=file_name,
        metavar="TRACE",
        help="a file of client trace or client stream --trace",
    )
    film: str = _option(
        commands=("highlight",),
        default="",
        nargs=None,
        type=file_name,
        metavar="FILM",
        help="a video file, or server:PATH for one below the server's --highlight-root",
    )
    image: list[str] | None = _option(  # noqa: RUF009  a field, made once
        commands=("highlight",),
        action="append",
        type=file_name,
        metavar="FILE",
        help="a picture of what to look for, JPEG, PNG or WebP; may be given again",
    )
    text: str | None = _option(
        commands=("highlight",), help="what to look for in words; needs a server with a model that reads them"
    )
    excerpt_seconds: float = _option(
        commands=("highlight",),
        flag="--seconds",
        default=5.0,
        type=option_type(partial(_within, "seconds", 0.1, MAX_SECONDS)),
        metavar="SECONDS",
        help=f"how long a clip is, 0.1 to {MAX_SECONDS:g} (default: 5)",
    )
    clips: int = _option(
        commands=("highlight",),
        default=1,
        type=option_type(lambda text: within("clips", _count(text), 1, MAX_EXCERPTS)),
        metavar="N",
        help=f"how many clips, 1 to {MAX_EXCERPTS}, that hardly overlap; their names are numbered (default: 1)",
    )
    samples_per_second: float = _option(
        commands=("highlight",),
        flag="--fps",
        default=2.0,
        type=option_type(partial(_within, "fps", 0.1, 10.0)),
        metavar="N",
        help="frames that are compared, of each second of the film, 0.1 to 10 (default: 2)",
    )
    cuts: str = _option(
        commands=("highlight",),
        default="avoid",
        choices=list(CUTS),
        help="whether clips may contain cuts; avoid: each costs half of the scores' range; never: none, unless no shot "
        "is long enough (default: avoid)",
    )
    crop: tuple[int, int] | None = _option(
        commands=("highlight",),
        type=option_type(parse_shape),
        metavar="W:H",
        help="a frame of this shape, 9:16 say, around what the pictures show; the server crops, each clip in one place",
    )
    copy: bool | None = _option(
        commands=("highlight",),
        action=argparse.BooleanOptionalAction,
        help="cut the film's own packets, with its sound (default: if the film is here, no crop is asked for, and "
        "OUT is a video file)",
    )
    saliency: str | None = _option(
        commands=("highlight",),
        type=_output,
        metavar="FILE",
        help="where people look, as a video, white where that is most: in each clip, and in all of the film without "
        "--image and --text; needs a server with the network",
    )
    dry_run: bool = _option(
        commands=("highlight",), default=False, action="store_true", help="write no clip; say what would be in it"
    )
    plot: str | None = _option(
        commands=("highlight",),
        type=file_name,
        metavar="FILE",
        help="draw the scores over time, .png or .svg. Needs the extra framehaul[observe]",
    )
    out: str = _option(
        commands=("stream", "highlight", "trace", "timeline"),
        default="",
        required={"stream": True, "trace": True, "timeline": True},
        type=_output,
        metavar="OUT",
        help={
            "stream": "video.mp4, .m4v, .mov, .mkv, .webm, .ts or .y4m; a pattern of images such as 'frames/%%06d.png' "
            "or .exr; or - for Matroska on stdout, without loss. Folders are made as needed",
            "highlight": "the clip: a video file, or what client stream takes",
            "trace": "the file, t.pftrace say; it appears when it is whole",
            "timeline": "the picture: a file that ends in .png or .svg",
        },
    )
    seconds: float = _option(
        commands=("trace",),
        default=10.0,
        type=option_type(_trace_seconds),
        metavar="SECONDS",
        help="for how long, 1 to 300 (default: 10)",
    )
    kernels: bool = _option(
        commands=("trace",),
        default=False,
        action="store_true",
        help="also each kernel and copy of the server's GPU, by CUPTI; for 10 seconds at most. The first time it takes "
        "some seconds to begin, and the server's GPU is a little slower meanwhile",
    )
    server: MetricsAddress = _option(  # noqa: RUF009  a field, made once
        commands=("top",),
        default=MetricsAddress.parse(DEFAULT_ADDRESS),
        nargs="?",
        type=option_type(MetricsAddress.parse),
        metavar="HOST:PORT",
        help="where its --metrics listens; with http:// or https:// before it, else https:// if options say TLS "
        f"(default: {DEFAULT_ADDRESS})",
    )
    once: bool = _option(
        commands=("top",), default=False, action="store_true", help="print how things are now, as plain text, and end"
    )
    target: str = _option(
        commands=("stream", "highlight", "info", "models", "trace"),
        default=DEFAULT_TARGET,
        type=option_type(check_target),
        metavar="HOST:PORT",
        help=f"the server (default: ${TARGET_VARIABLE}, else {DEFAULT_TARGET})",
    )
    connect_timeout: float = _option(
        commands=_ONLINE,
        default=DEFAULT_CONNECT_TIMEOUT_S,
        type=option_type(_timeout_s),
        metavar="SECONDS",
        help=f"how long to wait for the server to answer (default: {DEFAULT_CONNECT_TIMEOUT_S:g})",
    )
    tls: str | None = _access_option(
        action="store_const",
        const="1",
        help=f"encrypt, and check the server's certificate; the next four imply it (also: {TLS_VARIABLE}=1)",
    )
    ca: str | None = _access_option(
        type=file_name,
        metavar="FILE",
        help=f"PEM file of the authorities to trust; without it, the well-known ones (also: {CA_VARIABLE})",
    )
    cert: str | None = _access_option(
        type=file_name, metavar="FILE", help=f"PEM file of this client's certificate (also: {CERT_VARIABLE})"
    )
    key: str | None = _access_option(type=file_name, metavar="FILE", help=f"PEM file of its key (also: {KEY_VARIABLE})")
    tls_server_name: str | None = _access_option(
        metavar="NAME",
        help=f"the name in the server's certificate, if the target is called otherwise (also: {SERVER_NAME_VARIABLE})",
    )
    token_file: str | None = _access_option(
        type=file_name,
        metavar="FILE",
        help=f"file with the token, of mode 0600; ${TOKEN_VARIABLE} may hold the token itself "
        f"(also: {TOKEN_FILE_VARIABLE})",
    )
    insecure: bool = _access_option(
        default=False,
        action="store_true",
        help="send the token even in the clear, over networks where every machine is trusted",
    )
    model: str | None = _option(
        commands=_DECODING, help="the server's decoder (default: the one named in the file, else the server's own)"
    )
    format: str | None = _option(
        choices=[pixel_format.value for pixel_format in PixelFormat],
        help="how frames cross the network (default: what suits the output). yuv420p: video, the fewest bytes and no "
        "conversion on this machine. yuv420p10le: 10-bit video, the default where the encoder takes no 8 bits. rgb24: "
        "8-bit PNG. gbrpf16le: half floats, for EXR and 16-bit PNG",
    )
    fps: Fraction | None = _option(  # noqa: RUF009  a field, made once
        commands=("stream", "models"),
        type=option_type(parse_fps),
        help={
            "stream": "frames a second of the video, such as 24, 29.97 (which is 30000/1001) or 24000/1001 "
            f"(default: what the file says, else {DEFAULT_FPS})",
            "models": f"frames a second of the video that --price is for (default: {DEFAULT_FPS})",
        },
    )
    frames: tuple[int, int] | None = _option(
        type=option_type(_frames),
        metavar="A-B",
        help="only these frames of the clip, both included, counted from 0; or A, a single one. Only what they need is "
        "decoded, and images keep their numbers (default: all)",
    )
    normalized: bool | None = _option(
        commands=_DECODING,
        action=argparse.BooleanOptionalAction,
        help="the latents have zero mean and unit variance, as a diffusion model makes them, and the server must undo "
        "that (default: what the file says, else no)",
    )
    restart_latents: int | None = _option(
        metavar="N",
        type=option_type(_count),
        help="each N latents are a clip of their own to the decoder, one after the other in one video, as generators "
        "want it that decode block by block (Helios: 9)",
    )
    reproducible: bool | None = _option(
        action=argparse.BooleanOptionalAction,
        help="the same latents give the same bytes on servers of one version and one kind of device, whatever else "
        "they do; takes longer with some decoders (default: the server's)",
    )
    across: int | None = _option(
        type=option_type(_parts),
        metavar="N",
        help="decode N parts of the clip side by side, with a session each: at the servers of --target A,B,..., in "
        "turns, or at one that has or knows several devices; for models whose memory is finite, and clips that are "
        "several times longer (client models says how far a model looks back)",
    )
    draft: str | None = _option(
        metavar="MODEL",
        help="decode the same latents with this model too, a faster one as taew2_1 is for Wan, whose frames come "
        "first; in a session of its own, with a priority higher by 1",
    )
    draft_out: str | None = _option(
        type=_output, metavar="OUT", help="where the frames of --draft go: what --out may be, with the same options"
    )
    priority: int = _option(
        commands=_DECODING,
        default=0,
        type=option_type(lambda text: check_priority(_whole(text))),
        help="-100 to 100, higher is served first (default: 0)",
    )
    retry_for: float = _option(
        default=DEFAULT_RETRY_FOR_S,
        type=option_type(lambda text: check_retry_for(_number(text))),
        metavar="SECONDS",
        help="how long to try to go on when the connection or the server is lost, counted from the last frame that "
        f"came, without the time in a server's queue; 0 to fail at once (default: {DEFAULT_RETRY_FOR_S:g})",
    )
    stall_timeout: float = _option(
        default=DEFAULT_STALL_TIMEOUT_S,
        type=option_type(lambda text: check_stall_timeout(_number(text))),
        metavar="SECONDS",
        help="how long the server may send no frame, take no latent and say nothing from its queue though its "
        f"connection lives; then the session counts as lost (default: {DEFAULT_STALL_TIMEOUT_S:g})",
    )
    tensor: str | None = _option(
        commands=_DECODING,
        help=f"name of the tensor in the file (default: {DEFAULT_TENSOR}, or ComfyUI's latent_tensor, or the only one "
        "that can be latents)",
    )
    layout: str | None = _option(
        commands=_DECODING,
        choices=list(Layout),
        type=str.upper,
        help="order of the tensor's axes: T latents, C channels, height, width; a batch of one may stand before them "
        "(default: what the file says, else TCHW, and CTHW after a batch)",
    )
    container: str | None = _video_option(
        choices=list(CONTAINERS),
        help="what to write, whatever the name ends in; also on stdout, to a pipe or a device: y4m for programs that "
        "read nothing else (it can't name its colours: tell them BT.709)",
    )
    live: bool = _video_option(
        default=False,
        action="store_true",
        help="the file has its name from its first frame on, and plays while it grows, also when this is killed: mp4 "
        "and mov in fragments of a second (default: its index in front, once it is whole)",
    )
    codec: str | None = _video_option(
        help="any video encoder of FFmpeg's, or h264, hevc, av1, vp9 (default: libx264; libvpx-vp9 for .webm; none for "
        ".y4m and stdout)"
    )
    crf: int | None = _video_option(
        type=int, help=f"quality, lower is better and larger (default: {DEFAULT_CRF} for libx264)"
    )
    preset: str | None = _video_option(
        help=f"speed against size, ultrafast to veryslow (default: {DEFAULT_PRESET} for libx264)"
    )
    encoder_option: list[tuple[str, str]] | None = _video_option(  # noqa: RUF009  a field, made once
        action="append",
        type=option_type(named_value),
        metavar="NAME=VALUE",
        help="any other option of the encoder's, such as b=8M, g=48 or tune=grain (see ffmpeg -h encoder=NAME); may be "
        "given again",
    )
    pix_fmt: str | None = _video_option(
        metavar="NAME", help="the encoder's pixel format (default: that of --format if it takes that)"
    )
    audio: str | None = _video_option(
        type=file_name,
        metavar="FILE",
        help="sound beside the video, of any file that FFmpeg reads: copied where the container takes it, else AAC "
        "(Opus in .webm); cut where the video ends, and silent after its own end",
    )
    size: tuple[int, int] | None = _option(
        commands=("models",),
        type=option_type(parse_size),
        metavar="WIDTHxHEIGHT",
        help="of frames in pixels, to say the memory of a session for (default: for each pixel)",
    )
    price: float | None = _option(
        commands=("models",),
        type=option_type(_price),
        metavar="PRICE",
        help="of the server's device, an hour: say what 1,000 hours of video cost by model and size, from the rates "
        "that the server measured in service; of --size alone, if that is given",
    )
    trace: str | None = _option(
        type=_output,
        metavar="FILE",
        help="write what this run does into a file for Perfetto: latents, frames, encoder and, where this caller may "
        "watch the server, what that does for this session in its first 300 s. Needs the extra framehaul[observe]",
    )
    json: bool = _option(
        commands=_JSON,
        default=False,
        action="store_true",
        help={
            "stream": "write the report, or what went wrong, as one line of JSON on stdout (stderr with --out -)",
            "probe": "write each run as one line of JSON on stdout, and the summary on stderr",
            "info": "write the answer, or what went wrong, as one line of JSON on stdout",
            "models": "write the answer, or what went wrong, as one line of JSON on stdout",
        },
    )
    scores_json: str | None = _option(
        commands=("highlight",),
        flag="--json",
        type=_output,
        metavar="FILE",
        help="write excerpts, cuts and the score of each sample as JSON; - for stdout, where then also stands what "
        "went wrong",
    )
    progress: str | None = _option(
        choices=list(Style),
        help="how progress is told. auto: on stderr, a bar on a terminal and else a line every two seconds. openjd, "
        "json: a line a second on stdout (stderr with --out -), also in the queue, while a lost session is taken up "
        "again and while the output is finished; json implies --json (default: auto; none with --quiet)",
    )
    quiet: bool = _option(
        commands=("stream", "highlight"),
        default=False,
        action="store_true",
        help={
            "stream": "no progress but of --progress, no text; errors and --json still come",
            "highlight": "no progress and no text; errors and --json still come",
        },
    )
    debug: bool = _option(
        commands=_ALL,
        default=False,
        action="store_true",
        help=f"show what happens inside, and tracebacks (also: {DEBUG_VARIABLE}=1)",
    )

    def access(self) -> Access:
        """TLS, certificates and token: what the options leave open is taken from the environment.

        A token itself is never an option, since other users see command lines.

        Raises:
            InvalidOption: options don't go together, or a file can't be read.
        """
        options = {
            TLS_VARIABLE: self.tls,
            CA_VARIABLE: self.ca,
            CERT_VARIABLE: self.cert,
            KEY_VARIABLE: self.key,
            SERVER_NAME_VARIABLE: self.tls_server_name,
            TOKEN_FILE_VARIABLE: self.token_file,
        }
        given = {variable: value for variable, value in options.items() if value is not None}
        return replace(Access.from_environment({**os.environ, **given}), insecure=self.insecure)


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line of `client`, the process's own if none is given.

    Raises:
        SystemExit: with code 2 for a wrong option, with code 0 for --help.
    """
    parser = CommandParser(
        prog="client",
        description="Streams latents to a Framehaul server and turns the frames that come back into a video.",
        epilog=_EXIT_CODES,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, texts in COMMANDS.items():
        command = commands.add_parser(name, **{"epilog": _EXIT_CODES, **texts})
        _add_options(command, name)
        command.set_defaults(
            target=os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET, debug=bool(os.environ.get(DEBUG_VARIABLE))
        )
    options = Options(**vars(parser.parse_args(arguments)))
    if options.progress == Style.JSON:
        return replace(options, json=True)  # so that every line is JSON
    return options


def _add_options(parser: argparse.ArgumentParser, command: str) -> None:
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    for option in fields(Options):
        if command not in option.metadata.get("commands", ()):
            continue
        row = {
            name: value[command] if isinstance(value, dict) else value
            for name, value in option.metadata["row"].items()
            if not isinstance(value, dict) or command in value
        }
        flag = row.pop("flag", f"--{option.name.replace('_', '-')}")
        if "nargs" in row:
            flag = option.name
        else:
            row["dest"] = option.name
        title = option.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        groups[title].add_argument(flag, default=option.default, **row)
