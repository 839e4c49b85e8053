"""The `pipeline` command. Its module imports no torch: `pipeline --help` answers at once."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from framehaul.formats import parse_size
from framehaul.options import CommandParser, file_name, option_type
from framehaul_pipeline.errors import InvalidInput

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_OUTPUT = 6
EXIT_INTERRUPTED = 130

_EXIT_CODES = """\
exit codes:
  0    done
  1    a fault in this program: please report it
  2    a wrong option, or a video that can't be read
  6    the latent file can't be written
  130  interrupted (Ctrl-C); nothing was written
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("framehaul_pipeline.encode").setLevel(logging.INFO)  # torch has things to say as well
    try:
        _encode(arguments)
    except InvalidInput as error:
        return _complain(error, EXIT_USAGE)
    except ModuleNotFoundError as error:
        return _complain(f"{error.name} is not installed here: pip install 'framehaul[server]'", EXIT_USAGE)
    except OSError as error:
        return _complain(f"{arguments.out}: {error.strerror or error}", EXIT_OUTPUT)
    except KeyboardInterrupt:
        return _complain("interrupted; nothing was written", EXIT_INTERRUPTED)
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="pipeline", description="Framehaul's decode pipeline, without a server.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    encode = commands.add_parser(
        "encode",
        help="turn a video into latents of the built-in model",
        description="Turn any video that FFmpeg reads into a latent file of the built-in model `tiny`.",
        epilog=_EXIT_CODES,
    )
    encode.add_argument(
        "video",
        metavar="CLIP",
        help="the video: a file, a pipe, numbered pictures as 'shot/%%04d.png', or - for standard input",
    )
    encode.add_argument("--out", type=file_name, required=True, metavar="FILE", help="the latent file, .safetensors")
    encode.add_argument(
        "--size",
        type=option_type(parse_size),
        metavar="WxH",
        help="scale and crop frames to this size, multiples of 8 (default: the video's, cropped to multiples of 8)",
    )
    encode.add_argument("--start", type=float, default=0.0, metavar="S", help="begin so many seconds into the video")
    encode.add_argument("--duration", type=float, metavar="S", help="encode so many seconds (default: to the end)")
    encode.add_argument("--max-frames", type=int, metavar="N", help="encode at most so many frames")
    encode.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")
    encode.add_argument(
        "--dtype",
        choices=("float16", "bfloat16", "float32"),
        help="arithmetic (default: float16 on cuda, float32 on cpu); latents are float16 in any case",
    )
    encode.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    return parser


def _encode(arguments: argparse.Namespace) -> None:
    # Here and not above: torch takes seconds to import.
    from framehaul_pipeline.encode.encode import encode
    from framehaul_pipeline.encode.video_input import Excerpt

    encode(
        arguments.video,
        Path(arguments.out),
        size=arguments.size,
        excerpt=Excerpt(start_s=arguments.start, duration_s=arguments.duration, max_frames=arguments.max_frames),
        device=arguments.device,
        dtype=arguments.dtype,
        overwrite=arguments.overwrite,
    )


def _complain(error: object, code: int) -> int:
    sys.stderr.write(f"pipeline: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
