"""The `server` command: options from the command line, then the environment, then defaults; exit codes for scripts."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvloop

from framehaul import logs
from framehaul.allocator import tune_allocator
from framehaul.options import CommandParser, option_type
from framehaul_pipeline import core_dumps
from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.device.host_memory import available_bytes, total_bytes
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.embedding import clip_model, packaged_model
from framehaul_pipeline.models.model import describe_model
from framehaul_pipeline.models.plugins import find_kinds
from framehaul_pipeline.models.saliency import describe_saliency
from framehaul_pipeline.supervision.supervisor import WorkerFailed
from framehaul_server.access.tls import TlsFiles
from framehaul_server.app import App, log_config
from framehaul_server.config import FLAG, OPTIONS, SWITCH, Option, ServerConfig
from framehaul_server.errors import CannotListen, CannotWork, UnusableFile
from framehaul_server.explain import check_host, explain
from framehaul_server.front.host import Host
from framehaul_server.rpc.boundary import quieten_grpc
from framehaul_server.signals import stop_signals

_EXITS: Final = {CannotWork: 2, UnusableFile: 2, CannotListen: 3, WorkerFailed: 4}

_EPILOG: Final = """\
Every option but --explain can be set by an environment variable as well; the command line counts first.
Frames leave as rgb24, yuv420p, yuv420p10le (10 bits) or gbrpf16le (half float), as each client asks. --max-size is for
the first three; half-float frames take twice the bytes, so the largest has half the pixels.
Addresses other than loopback need TLS and tokens: see docs/operations.md.

The first SIGTERM or SIGINT drains: new and queued sessions are refused, running ones may finish within --grace.
The process ends at most 10 s after that. The second ends it at once.

exit codes:
  0    stopped by a signal, after draining; or --explain is done
  2    an option is wrong, or a file that it names, or the host too small for them
  3    the address can't be listened on
  4    the worker doesn't start, or died too often
  130  second signal was SIGINT
  143  second signal was SIGTERM
"""


def main(
    arguments: Sequence[str] | None = None, *, serve: Callable[[ServerConfig], Coroutine[Any, Any, None]] | None = None
) -> int:
    """Run the server until it is told to stop; gives the exit code. `serve` runs it elsewise than by signals."""
    given = sys.argv[1:] if arguments is None else arguments
    config = parse(given, os.environ)
    try:
        check_host(config, total_bytes())
        if config.explain:
            _say(explain(config, host_bytes=total_bytes(), free_bytes=available_bytes()))
        else:
            _run(config, serve or partial(_serve, given))
    except tuple(_EXITS) as error:
        sys.stderr.write(f"server: error: {error}\n")
        return _EXITS[type(error)]
    return 0


def _run(config: ServerConfig, serve: Callable[[ServerConfig], Coroutine[Any, Any, None]]) -> None:
    core_dumps.forbid()
    tune_allocator(one_heap=True)
    logs.configure(config.log_level)
    quieten_grpc()
    os.environ[logs.LEVEL_VARIABLE] = config.log_level  # for the worker
    log_config(config)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(config))


async def _serve(arguments: Sequence[str], config: ServerConfig) -> None:
    with stop_signals() as requested:
        serving = Host(config, arguments, on_ready=_say) if config.devices else App(config, on_ready=_say)
        await serving.run(requested)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> ServerConfig:
    """Read the command line over the environment over the defaults.

    Raises:
        SystemExit: with code 2 for a wrong option, with code 0 for --help.
    """
    parser = _parser(environment)
    given = vars(parser.parse_args(arguments))
    told: dict[str, dict[str, Any]] = {"": {}, "worker": {}, "tls": {}}
    for option in OPTIONS:
        owner, _, name = option.field.rpartition(".")
        told[owner][name] = given[option.field]
        if option.kind.many and not given[option.field]:
            told[owner][name] = environment.get(option.variable, option.default or "").split(",")
    try:
        kinds = find_kinds(list(filter(None, told[""].pop("plugins"))))
        told["worker"]["models"] = tuple(describe_model(text, kinds) for text in told["worker"]["models"])
        highlight_model = told[""].pop("highlight_model")
        if told[""]["highlight"]:
            told["worker"]["embedding"] = clip_model(highlight_model) if highlight_model else packaged_model()
        if told[""]["highlight_saliency"] is not None:
            told["worker"]["saliency"] = describe_saliency(told[""]["highlight_saliency"])
        return ServerConfig(worker=WorkerConfig(**told["worker"]), tls=read_tls(**told["tls"]), **told[""])
    except (ValueError, InvalidInput) as error:
        parser.error(str(error))


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="server",
        description="Decodes VAE latents that arrive over gRPC and streams the frames back.",
        epilog=_EPILOG,
    )
    add_options(parser, OPTIONS, environment)
    return parser


def add_options(parser: argparse.ArgumentParser, options: Iterable[Option], environment: Mapping[str, str]) -> None:
    """Give `parser` these rows of the table, with defaults from the environment."""
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    for option in options:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        add_argument = groups[option.group].add_argument
        flag, field, kind, variable, default = option.flag, option.field, option.kind, option.variable, option.default
        shown = "" if not default else f", default {default}"
        if kind is FLAG:
            add_argument(flag, dest=field, action="store_true", help=option.help)
        elif kind is SWITCH:
            on = _read_switch(parser, variable, environment.get(variable, str(default)))
            other = "0" if default == "1" else "1"
            description = f"{option.help} [{variable}={other}]"
            add_argument(flag, dest=field, action=argparse.BooleanOptionalAction, default=on, help=description)
        elif kind.many:
            description = f"{option.help} [{variable}, separated by commas{shown}]"
            add_argument(flag, dest=field, action="append", metavar=kind.metavar, help=description)
        else:
            add_argument(
                flag,
                dest=field,
                type=option_type(kind.read),
                default=environment.get(variable, default),
                metavar=kind.metavar,
                help=f"{option.help} [{variable}{shown}]",
            )


def read_tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    """Make one value of the three options.

    Raises:
        ValueError: one that is needed is missing.
    """
    if certificate and key:
        return TlsFiles(certificate=certificate, key=key, client_ca=client_ca)
    if certificate or key or client_ca:
        missing = " and ".join(name for name, file in (("tls_cert", certificate), ("tls_key", key)) if not file)
        raise ValueError(f"{missing}=unset: must be given too, TLS needs --tls-cert and --tls-key")
    return None


def _read_switch(parser: argparse.ArgumentParser, variable: str, text: str) -> bool:
    if text not in ("0", "1"):
        parser.error(f"{variable}={text!r}: must be 0 or 1")
    return text == "1"
