"""The command line's options: defaults, help for users, and their values as a `StreamConfig`."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from framehaul.formats import PixelFormat
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
from framehaul_client.command.exits import MEANINGS
from framehaul_client.command.option_values import number, priority, retry_for, seconds, size
from framehaul_client.command.stream import DEFAULT_FPS, StreamConfig
from framehaul_client.core.session_config import (
    DEFAULT_CONNECT_TIMEOUT_S,
    DEFAULT_RETRY_FOR_S,
    DEFAULT_TARGET,
    TARGET_VARIABLE,
    parse_fps,
)
from framehaul_client.sinks.video_options import DEFAULT_CODEC, DEFAULT_CRF, DEFAULT_PRESET, VideoOptions
from framehaul_client.source.latents_file import DEFAULT_TENSOR

_ACCESS_OPTIONS: Final = {
    TLS_VARIABLE: "tls",
    CA_VARIABLE: "ca",
    CERT_VARIABLE: "cert",
    KEY_VARIABLE: "key",
    SERVER_NAME_VARIABLE: "tls_server_name",
    TOKEN_FILE_VARIABLE: "token_file",
}
DEBUG_VARIABLE: Final = "FRAMEHAUL_DEBUG"

_EXAMPLES: Final = """\
examples:
  client stream --out video.mp4                         the sample clip, from a server on this machine
  client stream clip.safetensors --out video.mp4 --target gpu7:50051 --crf 14 --preset slow
  client stream clip.safetensors --out - | ffplay -     watch it while it is decoded
  client stream clip.safetensors --out 'frames/%06d.png'
  client stream clip.safetensors --out 'plates/%06d.exr'                      half floats, for grading
  client stream clip.safetensors --out master.mp4 --format yuv420p10le        10 bits
"""

ValueT = TypeVar("ValueT")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `client`."""
    codes = "\n".join(f"  {code.value:<5} {meaning}" for code, meaning in MEANINGS.items())
    parser = argparse.ArgumentParser(
        prog="client",
        description="Streams latents to a Framehaul server and turns the frames that come back into a video.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_stream(commands, f"{_EXAMPLES}\nexit codes:\n{codes}")
    _add_info(commands)
    _add_models(commands)
    return parser


def stream_config(given: argparse.Namespace) -> StreamConfig:
    """Make the config of `client stream`.

    Raises:
        ValueError: an option is out of its range.
    """
    return StreamConfig(
        latents=given.latents,
        tensor=given.tensor,
        out=given.out,
        target=given.target,
        connect_timeout_s=given.connect_timeout,
        model=given.model,
        normalized=given.normalized,
        pixel_format=None if given.format is None else PixelFormat(given.format),
        fps=given.fps,
        priority=given.priority,
        retry_for_s=given.retry_for,
        access=access(given),
        video=VideoOptions(codec=given.codec, crf=given.crf, preset=given.preset, encoded_format=given.pix_fmt),
    )


def access(given: argparse.Namespace) -> Access:
    """Make the access that both commands have.

    Raises:
        InvalidOption: options don't go together, or a file can't be read.
    """
    told = {variable: value for variable, option in _ACCESS_OPTIONS.items() if (value := getattr(given, option))}
    # A token is never an option: other users see command lines.
    told[TOKEN_VARIABLE] = os.environ.get(TOKEN_VARIABLE, "")
    return replace(Access.from_environment(told), insecure=given.insecure)


def _add_stream(commands: argparse._SubParsersAction[argparse.ArgumentParser], epilog: str) -> None:
    parser = commands.add_parser(
        "stream",
        allow_abbrev=False,
        help="decode latents to a video",
        description="Streams latents to a server and writes the decoded frames.\n\n"
        "A file appears under its name only when "
        "it is whole, and then replaces what had that name;\nuntil then it is NAME.xxxxxx.partial beside it.\n\n"
        "A server that has no place for the session yet keeps it in a queue; where it stands there is told on "
        "stderr.\n\n"
        "When the connection is lost, or the server or its worker ends, the session is taken up again where "
        "the\nframes stopped, for as long as --retry-for says; what happens is told on stderr.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "latents",
        nargs="?",
        type=Path,
        metavar="LATENTS.safetensors",
        help="latents [T, C, h, w] or [1, C, T, h, w], F16, BF16 or F32 (default: the sample clip that ships with this "
        "client)",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="OUT",
        help="video.mp4, .mov or .mkv; a pattern of images such as 'frames/%%06d.png' or .exr; or - for raw video "
        "(y4m) on stdout. Folders are made as needed",
    )
    _add_target(parser)
    parser.add_argument(
        "--model", help="the server's decoder (default: the one named in the file, else the server's own)"
    )
    parser.add_argument(
        "--format",
        choices=[pixel_format.value for pixel_format in PixelFormat],
        help="how frames cross the network (default: what suits the output). yuv420p: video, the fewest bytes and no "
        "conversion on this machine. yuv420p10le: 10-bit video, the default where the encoder takes no 8 bits. rgb24: "
        "8-bit PNG. gbrpf16le: half floats, for EXR and 16-bit PNG",
    )
    parser.add_argument(
        "--fps",
        type=number(parse_fps),
        help=f"frames a second of the video, such as 24, 29.97 or "
        f"24000/1001 (default: what the file says, else {DEFAULT_FPS})",
    )
    parser.add_argument(
        "--normalized",
        action=argparse.BooleanOptionalAction,
        help="the latents have zero mean and unit variance, as a diffusion model makes them, and the server must undo "
        "that (default: what the file says, else no)",
    )
    parser.add_argument(
        "--priority", type=number(priority), default=0, help="-100 to 100, higher is served first (default: 0)"
    )
    parser.add_argument(
        "--retry-for",
        type=number(retry_for),
        default=DEFAULT_RETRY_FOR_S,
        metavar="SECONDS",
        help="how long to try to go on when the connection or the server is lost, counted from the last frame that "
        f"came, or the last word from a server's queue; 0 to fail at once (default: {DEFAULT_RETRY_FOR_S:g})",
    )
    parser.add_argument(
        "--tensor", default=DEFAULT_TENSOR, help=f"name of the tensor in the file (default: {DEFAULT_TENSOR})"
    )
    video = parser.add_argument_group("video files")
    video.add_argument(
        "--codec", default=DEFAULT_CODEC, help=f"any video encoder of FFmpeg's (default: {DEFAULT_CODEC})"
    )
    video.add_argument(
        "--crf", type=int, help=f"quality, lower is better and larger (default: {DEFAULT_CRF} for libx264)"
    )
    video.add_argument(
        "--preset", help=f"speed against size, ultrafast to veryslow (default: {DEFAULT_PRESET} for libx264)"
    )
    video.add_argument(
        "--pix-fmt", metavar="NAME", help="the encoder's pixel format (default: that of --format if it takes that)"
    )
    _add_json(parser, "report", " (stderr with --out -)")
    parser.add_argument("--quiet", action="store_true", help="no progress and no text; errors and --json still come")
    _add_debug(parser)


def _add_info(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "info",
        allow_abbrev=False,
        help="say what a server offers",
        description="Says which models and formats a server offers, and its load.",
    )
    _add_target(parser)
    _add_json(parser, "answer")
    _add_debug(parser)


def _add_models(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "models",
        allow_abbrev=False,
        help="say which models a server has",
        description="Says for each model of a server how latents become frames: channels of a latent, pixels of one of "
        "its cells, frames, latents it looks ahead and back, what streamed frames equal, whether it undoes "
        "normalisation, and how much device memory a session holds.",
    )
    _add_target(parser)
    parser.add_argument(
        "--size",
        type=number(size),
        metavar="WIDTHxHEIGHT",
        help="of frames in pixels, to say the memory of a session for (default: for each pixel)",
    )
    _add_json(parser, "answer")
    _add_debug(parser)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target",
        default=os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET,
        metavar="HOST:PORT",
        help=f"the server (default: ${TARGET_VARIABLE}, else {DEFAULT_TARGET})",
    )
    parser.add_argument(
        "--connect-timeout",
        type=number(seconds),
        default=DEFAULT_CONNECT_TIMEOUT_S,
        metavar="SECONDS",
        help=f"how long to wait for the server to answer (default: {DEFAULT_CONNECT_TIMEOUT_S:g})",
    )
    _add_access(parser)


def _add_access(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("TLS and token")

    def option(flag: str, metavar: str, description: str) -> None:
        variable = next(name for name, option in _ACCESS_OPTIONS.items() if option == flag[2:].replace("-", "_"))
        default = os.environ.get(variable) or None
        group.add_argument(flag, metavar=metavar, default=default, help=f"{description} (also: {variable})")

    group.add_argument(
        "--tls",
        action="store_const",
        const="1",
        default=os.environ.get(TLS_VARIABLE),
        help=f"encrypt, and check the server's certificate; the next four imply it (also: {TLS_VARIABLE}=1)",
    )
    option("--ca", "FILE", "PEM file of the authorities to trust; without it, the well-known ones")
    option("--cert", "FILE", "PEM file of this client's certificate")
    option("--key", "FILE", "PEM file of its key")
    option("--tls-server-name", "NAME", "the name in the server's certificate, if the target is called otherwise")
    option("--token-file", "FILE", f"file with the token, of mode 0600; ${TOKEN_VARIABLE} may hold the token itself")
    group.add_argument(
        "--insecure",
        action="store_true",
        help="send the token even in the clear, over networks where every machine is trusted",
    )


def _add_json(parser: argparse.ArgumentParser, what: str, where: str = "") -> None:
    parser.add_argument("--json", action="store_true", help=f"write the {what} as one line of JSON on stdout{where}")


def _add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--debug",
        action="store_true",
        default=bool(os.environ.get(DEBUG_VARIABLE)),
        help=f"show what happens inside, and tracebacks (also: {DEBUG_VARIABLE}=1)",
    )
