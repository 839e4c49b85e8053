"""The command line: one table of options, from which argparse takes their rows and the commands their values."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import partial
from typing import Any, Final

from framehaul.formats import PixelFormat, parse_size
from framehaul.options import file_name, named_value, option_type
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
from framehaul_client.command.snapshots import DEFAULT_ADDRESS, MetricsAddress
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

_EXIT_CODES: Final = "exit codes:\n" + "\n".join(f"  {code.value:<5} {meaning}" for code, meaning in MEANINGS.items())
_EXAMPLES: Final = """\
examples:
  client stream --out video.mp4                         the sample clip, from a server on this machine
  client stream clip.safetensors --out video.mp4 --target gpu7:50051 --crf 14 --preset slow
  client stream clip.safetensors --out - | ffplay -     watch it while it is decoded
  client stream clip.safetensors --out video.mp4 --live                       a file that plays while it grows
  client stream clip.safetensors --out 'frames/%06d.png'
  client stream clip.safetensors --out 'plates/%06d.exr'                      half floats, for grading
  client stream clip.safetensors --out master.mp4 --format yuv420p10le        10 bits
"""
_COMMANDS: Final[dict[str, dict[str, Any]]] = {
    "stream": {
        "help": "decode latents to a video",
        "description": "Streams latents to a server and writes the decoded frames.\n\n"
        "A file appears under its name only when it is whole (but for --live), and then replaces what had that "
        "name;\n"
        "until then it is NAME.xxxxxx.partial beside it. Pipes and devices are written to as they are.\n\n"
        "A server that has no place for the session yet keeps it in a queue; where it stands there is told on "
        "stderr.\n\n"
        "When the connection is lost, or the server or its worker ends, the session is taken up again where the\n"
        "frames stopped, for as long as --retry-for says; what happens is told on stderr.",
        "epilog": f"{_EXAMPLES}\n{_EXIT_CODES}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    },
    "info": {
        "help": "say what a server offers",
        "description": "Says which models and formats a server offers, and its load.",
    },
    "models": {
        "help": "say which models a server has",
        "description": "Says for each model of a server how latents become frames: channels of a latent, pixels of one "
        "of its cells, frames, latents it looks ahead and back, what streamed frames equal, whether it undoes "
        "normalisation, and how much device memory a session holds.",
    },
    "top": {
        "help": "watch what a server does",
        "description": "Shows what a server's page shows, in a terminal, once a second: what it is bound by, its last "
        "minute, and its sessions. q or Ctrl-C ends it. Needs framehaul[observe].",
    },
}
_ALL: Final = tuple(_COMMANDS)
_CALLING: Final = tuple(name for name in _COMMANDS if name != "top")


def _option(*, commands: Sequence[str] = ("stream",), group: str = "", default: Any = None, **row: Any) -> Any:
    """One row of the table; `row` is for `add_argument`. A `help` that differs by command is a dict."""
    return field(default=default, metadata={"commands": commands, "group": group, "row": row})


_access_option: Final = partial(_option, commands=_ALL, group="TLS and token")
_video_option: Final = partial(_option, group="video files")


def _output(text: str) -> str:
    return STDOUT if text == "/dev/stdout" else file_name(text)


def _timeout_s(text: str) -> float:
    given = float(text)
    if not 0 < given <= 3600:
        raise ValueError(f"{text}: must be over 0 and up to 3600 seconds")
    return given


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line said: one field an option, in the order of `--help`. `retry_for` is `--retry-for`."""

    command: str
    latents: str | None = _option(
        nargs="?",
        type=file_name,
        metavar="LATENTS.safetensors",
        help="latents [T, C, h, w] or [1, C, T, h, w], F16, BF16 or F32; a pipe, or - for stdin, if one latent comes "
        "after the other (default: the sample clip that ships with this client)",
    )
    out: str = _option(
        default="",
        required=True,
        type=_output,
        metavar="OUT",
        help="video.mp4, .m4v, .mov, .mkv, .webm, .ts or .y4m; a pattern of images such as 'frames/%%06d.png' or .exr; "
        "or - for Matroska on stdout, without loss. Folders are made as needed",
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
        commands=_CALLING,
        default=DEFAULT_TARGET,
        type=option_type(check_target),
        metavar="HOST:PORT",
        help=f"the server (default: ${TARGET_VARIABLE}, else {DEFAULT_TARGET})",
    )
    connect_timeout: float = _option(
        commands=_CALLING,
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
    model: str | None = _option(help="the server's decoder (default: the one named in the file, else the server's own)")
    format: str | None = _option(
        choices=[pixel_format.value for pixel_format in PixelFormat],
        help="how frames cross the network (default: what suits the output). yuv420p: video, the fewest bytes and no "
        "conversion on this machine. yuv420p10le: 10-bit video, the default where the encoder takes no 8 bits. rgb24: "
        "8-bit PNG. gbrpf16le: half floats, for EXR and 16-bit PNG",
    )
    fps: Fraction | None = _option(  # noqa: RUF009  a field, made once
        type=option_type(parse_fps),
        help="frames a second of the video, such as 24, 29.97 (which is 30000/1001) or 24000/1001 "
        f"(default: what the file says, else {DEFAULT_FPS})",
    )
    normalized: bool | None = _option(
        action=argparse.BooleanOptionalAction,
        help="the latents have zero mean and unit variance, as a diffusion model makes them, and the server must undo "
        "that (default: what the file says, else no)",
    )
    reproducible: bool | None = _option(
        action=argparse.BooleanOptionalAction,
        help="the same latents give the same bytes on servers of one version and one kind of device, whatever else "
        "they do; takes longer with some decoders (default: the server's)",
    )
    priority: int = _option(
        default=0,
        type=option_type(lambda text: check_priority(int(text))),
        help="-100 to 100, higher is served first (default: 0)",
    )
    retry_for: float = _option(
        default=DEFAULT_RETRY_FOR_S,
        type=option_type(lambda text: check_retry_for(float(text))),
        metavar="SECONDS",
        help="how long to try to go on when the connection or the server is lost, counted from the last frame that "
        f"came, without the time in a server's queue; 0 to fail at once (default: {DEFAULT_RETRY_FOR_S:g})",
    )
    stall_timeout: float = _option(
        default=DEFAULT_STALL_TIMEOUT_S,
        type=option_type(lambda text: check_stall_timeout(float(text))),
        metavar="SECONDS",
        help="how long the server may send no frame, take no latent and say nothing from its queue though its "
        f"connection lives; then the session counts as lost (default: {DEFAULT_STALL_TIMEOUT_S:g})",
    )
    tensor: str | None = _option(
        help=f"name of the tensor in the file (default: {DEFAULT_TENSOR}, or ComfyUI's latent_tensor, or the only one "
        "that can be latents)"
    )
    layout: str | None = _option(
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
    size: tuple[int, int] | None = _option(
        commands=("models",),
        type=option_type(parse_size),
        metavar="WIDTHxHEIGHT",
        help="of frames in pixels, to say the memory of a session for (default: for each pixel)",
    )
    json: bool = _option(
        commands=_CALLING,
        default=False,
        action="store_true",
        help={
            "stream": "write the report as one line of JSON on stdout (stderr with --out -)",
            "info": "write the answer as one line of JSON on stdout",
            "models": "write the answer as one line of JSON on stdout",
        },
    )
    quiet: bool = _option(
        default=False, action="store_true", help="no progress and no text; errors and --json still come"
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
    parser = argparse.ArgumentParser(
        prog="client",
        description="Streams latents to a Framehaul server and turns the frames that come back into a video.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, texts in _COMMANDS.items():
        command = commands.add_parser(name, allow_abbrev=False, **texts)
        _add_options(command, name)
        command.set_defaults(
            target=os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET, debug=bool(os.environ.get(DEBUG_VARIABLE))
        )
    return Options(**vars(parser.parse_args(arguments)))


def _add_options(parser: argparse.ArgumentParser, command: str) -> None:
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    for option in fields(Options):
        if command not in option.metadata.get("commands", ()):
            continue
        row = dict(option.metadata["row"])
        if isinstance(row["help"], dict):
            row["help"] = row["help"][command]
        flag = option.name if "nargs" in row else f"--{option.name.replace('_', '-')}"
        title = option.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        groups[title].add_argument(flag, default=option.default, **row)
