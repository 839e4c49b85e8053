"""The `server` command: options from the command line, then the environment, then defaults; exit codes for scripts."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import uvloop

from framehaul.allocator import tune_allocator
from framehaul_pipeline import core_dumps
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.model import TINY_SPEC
from framehaul_pipeline.supervision.config import WorkerConfig
from framehaul_pipeline.supervision.supervisor import WorkerFailed
from framehaul_server import grpc_log, logs
from framehaul_server.app import App, log_config
from framehaul_server.config import Address, ServerConfig, TlsFiles
from framehaul_server.errors import CannotListen, UnusableFile
from framehaul_server.option_values import read_area, read_gib, read_models, read_sizes, reader
from framehaul_server.signals import StopSignals

EXIT_OK: Final = 0
EXIT_USAGE: Final = 2
EXIT_CANNOT_LISTEN: Final = 3
EXIT_WORKER_FAILED: Final = 4

_ENVIRONMENT_PREFIX: Final = "FRAMEHAUL_"
_EPILOG: Final = """\
Every option can be set by an environment variable as well; the command line counts first.
Frames leave as rgb24, yuv420p, yuv420p10le (10 bits) or gbrpf16le (half float), as each client asks. --max-size is for
the first three; half-float frames take twice the bytes, so the largest has half the pixels.
Addresses other than loopback need TLS and tokens: see docs/operations.md.

The first SIGTERM or SIGINT drains: new and queued sessions are refused, running ones may finish within --grace.
The process ends at most 10 s after that. The second ends it at once.

exit codes:
  0    stopped by a signal, after draining
  2    an option is wrong, or a file that it names
  3    the address can't be listened on
  4    the worker doesn't start, or died too often
  130  second signal was SIGINT
  143  second signal was SIGTERM
"""
ValueT = TypeVar("ValueT")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until it is told to stop; gives the exit code."""
    config = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
    core_dumps.forbid()
    tune_allocator()
    logs.configure(config.log_level)
    grpc_log.quieten()
    os.environ[_variable("--log-level")] = config.log_level  # for the worker
    log_config(config)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config))
    except UnusableFile as error:
        return _complain(error, EXIT_USAGE)
    except CannotListen as error:
        return _complain(error, EXIT_CANNOT_LISTEN)
    except WorkerFailed as error:
        return _complain(error, EXIT_WORKER_FAILED)
    return EXIT_OK


async def _serve(config: ServerConfig) -> None:
    signals = StopSignals()
    signals.install()
    try:
        await App(config, on_ready=_say).run(signals.requested)
    finally:
        signals.remove()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _complain(error: Exception, code: int) -> int:
    sys.stderr.write(f"server: error: {error}\n")
    return code


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> ServerConfig:
    """Read the command line over the environment over the defaults.

    Raises:
        SystemExit: with code 2 for a wrong option, with code 0 for --help.
    """
    parser = _parser(environment)
    given = parser.parse_args(arguments)
    try:
        texts = given.model or environment.get(_variable("--model"), TINY_SPEC.name).split(",")
        plugins = given.plugin or environment.get(_variable("--plugin"), "").split(",")
        return ServerConfig(
            listen=given.listen,
            worker=WorkerConfig(
                device=given.device,
                models=read_models(texts, list(filter(None, plugins))),
                max_pixels=given.max_size,
                num_slots=given.slots,
                chunk_latents=given.chunk_latents,
                warm_up=given.warm_up,
                device_memory_bytes=given.device_memory_gib,
                park_bytes=given.park_gib,
                standby=given.standby,
                chunk_timeout_s=given.chunk_timeout,
                max_restarts=given.max_restarts,
            ),
            advertise=given.advertise,
            max_sessions=given.max_sessions,
            max_queued=given.max_queued,
            max_queued_bytes=given.max_queued_mib << 20,
            session_window_bytes=given.session_window_mib << 20,
            max_request_bytes=given.max_request_mib << 20,
            resume_window_s=given.resume_window,
            grace_s=given.grace,
            keepalive_s=given.keepalive,
            stall_timeout_s=given.stall_timeout,
            allow_synthetic=given.allow_synthetic,
            reflection=given.reflection,
            tls=_tls(given),
            tokens=given.tokens,
            insecure=given.insecure,
            log_level=given.log_level,
        )
    except (ValueError, InvalidInput) as error:
        parser.error(str(error))


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="server",
        description="Decodes VAE latents that arrive over gRPC and streams the frames back.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    defaults, worker = ServerConfig(), WorkerConfig()

    def option(
        flag: str, read: Callable[[str], ValueT], default: str | None, description: str, metavar: str | None = None
    ) -> None:
        variable = _variable(flag)
        shown = "" if default is None else f", default {default}"
        parser.add_argument(
            flag,
            type=reader(read),
            default=environment.get(variable, default),
            metavar=metavar,
            help=f"{description} [{variable}{shown}]",
        )

    def switch(flag: str, description: str, *, default: bool = False) -> None:
        variable, shown = _variable(flag), "0" if default else "1"
        parser.add_argument(
            flag,
            action=argparse.BooleanOptionalAction,
            default=_read_switch(parser, variable, environment.get(variable, str(int(default)))),
            help=f"{description} [{variable}={shown}]",
        )

    option("--listen", Address.parse, str(defaults.listen), "where to listen; port 0 picks a free one", "HOST:PORT")
    option("--device", str, worker.device, "auto, cpu, cuda or cuda:N", "DEVICE")
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME[=PATH]",
        help="tiny, or a name and where its VAE lies: a folder as diffusers saves it, or a safetensors file, with "
        "#sha256=HEX behind it to pin the weights. Several options serve several models, the first is the default "
        f"[{_variable('--model')}, separated by commas, default {TINY_SPEC.name}]",
    )
    parser.add_argument(
        "--plugin",
        action="append",
        metavar="MODULE",
        help=f"a module with a decoder of its own; see docs/models.md [{_variable('--plugin')}, separated by commas]",
    )
    option("--max-sessions", int, str(defaults.max_sessions), "sessions at a time; more wait in a queue", "N")
    option("--max-queued", int, str(defaults.max_queued), "sessions in the queue; more are refused, 0 has none", "N")
    option("--max-queued-mib", int, str(defaults.max_queued_bytes >> 20), "their first requests together, MiB", "MIB")
    option("--max-size", read_area, "1920x1088", "largest frame, by its area; sizes the rings", "WIDTHxHEIGHT")
    option("--slots", int, str(worker.num_slots), "chunks of frames in shared memory", "N")
    option("--chunk-latents", int, str(worker.chunk_latents), "most latents decoded together", "N")
    option(
        "--warm-up",
        read_sizes,
        "",
        "frame sizes, separated by commas, to decode once with each model before serving: their first client need not "
        "wait while kernels are chosen",
        "WIDTHxHEIGHT",
    )
    option(
        "--device-memory-gib",
        read_gib,
        None,
        "device memory for sessions' state; default is what is free once models are loaded; on the CPU no limit",
        "GIB",
    )
    option(
        "--park-gib",
        read_gib,
        None,
        "host memory for the state of sessions that stand still; 0 keeps it on the device; "
        "default is a quarter of the host's memory, at most 16",
        "GIB",
    )
    option(
        "--session-window-mib",
        int,
        str(defaults.session_window_bytes >> 20),
        "frames that may wait for one client, in MiB; times --max-sessions is the most they can hold",
        "MIB",
    )
    request_mib = str(defaults.max_request_bytes >> 20)
    option("--max-request-mib", int, request_mib, "largest request, a Render's clip say, in MiB", "MIB")
    option(
        "--resume-window",
        float,
        f"{defaults.resume_window_s:g}",
        "how long a session waits for its client after its connection was lost",
        "SECONDS",
    )
    option("--grace", float, f"{defaults.grace_s:g}", "time for running sessions after the first signal", "SECONDS")
    switch(
        "--standby",
        "keep a process ready to take over from a worker that dies: 0.5 GB of memory, none of the device",
        default=True,
    )
    option(
        "--max-restarts",
        int,
        str(worker.max_restarts),
        f"replace a worker that died so often in {worker.restart_window_s / 60:g} minutes; after that the server ends",
        "N",
    )
    option(
        "--chunk-timeout",
        float,
        f"{worker.chunk_timeout_s:g}",
        "a worker that doesn't answer for so long, or takes so long (or 20 times the usual) for a chunk, is replaced",
        "SECONDS",
    )
    option(
        "--keepalive",
        float,
        f"{defaults.keepalive_s:g}",
        "ping a silent connection after so long; one that doesn't answer within half of that is dropped",
        "SECONDS",
    )
    option(
        "--stall-timeout",
        float,
        f"{defaults.stall_timeout_s:g}",
        "end a session whose client has neither taken a frame nor sent a latent for so long",
        "SECONDS",
    )
    option("--advertise", str, None, "address that Locate answers; default is the bound one", "HOST:PORT")
    option("--tls-cert", Path, None, "serve with TLS: this certificate and those above it, PEM", "FILE")
    option("--tls-key", Path, None, "its key, PEM; changed files are read again", "FILE")
    option("--tls-client-ca", Path, None, "let in only clients with a certificate of these authorities, PEM", "FILE")
    option("--tokens", Path, None, "let in only clients with a token of this file; see docs/operations.md", "FILE")
    switch("--insecure", "allow addresses other than loopback even without TLS or tokens")
    switch("--allow-synthetic", "allow clips that the server makes from a seed, for load tests")
    switch("--reflection", "serve gRPC reflection")
    option("--log-level", str, defaults.log_level, ", ".join(logs.LEVELS), "LEVEL")
    return parser


def _tls(given: argparse.Namespace) -> TlsFiles | None:
    if given.tls_cert and given.tls_key:
        return TlsFiles(certificate=given.tls_cert, key=given.tls_key, client_ca=given.tls_client_ca)
    if given.tls_cert or given.tls_key or given.tls_client_ca:
        missing = " and ".join(flag for flag in ("tls_cert", "tls_key") if not getattr(given, flag))
        raise ValueError(f"{missing}=unset: must be given too, TLS needs --tls-cert and --tls-key")
    return None


def _variable(flag: str) -> str:
    return _ENVIRONMENT_PREFIX + flag.removeprefix("--").replace("-", "_").upper()


def _read_switch(parser: argparse.ArgumentParser, variable: str, text: str) -> bool:
    if text not in ("0", "1"):
        parser.error(f"{variable}={text!r}: must be 0 or 1")
    return text == "1"


if __name__ == "__main__":
    sys.exit(main())
