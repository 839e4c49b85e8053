"""The `fleet` command: options from the command line, then the environment, then defaults; exit codes for scripts."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from functools import partial
from typing import Any, Final

import uvloop

from framehaul import logs as log_form
from framehaul.address import Address
from framehaul.options import CannotSay, CommandParser, file_name, option_type
from framehaul.options import say as say_line
from framehaul_client.access import (
    CA_VARIABLE,
    CERT_VARIABLE,
    KEY_VARIABLE,
    SERVER_NAME_VARIABLE,
    TLS_VARIABLE,
    TOKEN_FILE_VARIABLE,
    Access,
)
from framehaul_client.errors import InvalidOption
from framehaul_fleet.errors import FleetFailed
from framehaul_fleet.locate import locate
from framehaul_fleet.ray_options import add_ray_commands, import_cluster, ray_address, run_ray_command
from framehaul_fleet.watching import ASK_S, RESOLVE_S, Resolve, resolve
from framehaul_server.cli import add_options, read_tls
from framehaul_server.config import OPTIONS, ServerConfig
from framehaul_server.errors import CannotListen, UnusableFile
from framehaul_server.rpc.boundary import quieten_grpc
from framehaul_server.signals import stop_signals

_EXITS: Final = {InvalidOption: 2, UnusableFile: 2, CannotSay: 2, CannotListen: 3, FleetFailed: 4}
_FRONT_OPTIONS: Final = {
    f"--{name}"
    for name in (
        *("listen", "tls-cert", "tls-key", "tls-client-ca", "tokens", "insecure", "keepalive", "reflection"),
        *("log-level", "metrics"),
    )
}
"""Of the server's options, those that a front has too."""
_METRICS_HELP: Final = "tell Prometheus there, at /targets by HTTP, where the servers' metrics are"
_ACCESS: Final = (
    ("--ca", CA_VARIABLE, "FILE", "authorities of the servers' certificates, PEM"),
    ("--cert", CERT_VARIABLE, "FILE", "certificate to show the servers, PEM"),
    ("--key", KEY_VARIABLE, "FILE", "its key, PEM"),
    ("--tls-server-name", SERVER_NAME_VARIABLE, "NAME", "name in the servers' certificates, if it isn't their own"),
    ("--token-file", TOKEN_FILE_VARIABLE, "FILE", "token for the servers"),
)
_EPILOG: Final = """\
exit codes:
  0    done, or stopped by a signal
  2    an option is wrong, or a file that it names
  3    the address can't be listened on
  4    the cluster, or the fleet on it, doesn't do what it was asked for
  130  second signal was SIGINT
  143  second signal was SIGTERM
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    parser = _parser(os.environ)
    given = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    say = partial(say_line, out=sys.stdout)
    with redirect_stdout(sys.stderr):  # where Ray prints what it likes, when it likes
        if given.command == "locate":
            return _run_locate(parser, given, say)
        try:
            return run_ray_command(parser, given, say)
        except FleetFailed as error:
            return _failed(error)


def _run_locate(parser: argparse.ArgumentParser, given: argparse.Namespace, say: Callable[[str], None]) -> int:
    try:
        config, access = front_config(vars(given)), servers_access(vars(given), os.environ)
    except ValueError as error:
        parser.error(str(error))
    except InvalidOption as error:
        return _failed(error)
    log_form.configure(config.log_level)
    quieten_grpc()
    try:
        with ExitStack() as stack:
            found = _find_servers(given, stack)
            runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
            runner.run(_locate(config, *found, access, say))
    except tuple(_EXITS) as error:
        return _failed(error)
    return 0


def _find_servers(given: argparse.Namespace, stack: ExitStack) -> tuple[Sequence[Address], Resolve, float]:
    """What is watched, what finds the servers behind that, and how often."""
    if given.ray is None:
        return given.servers, resolve, RESOLVE_S
    cluster = import_cluster()
    joined = stack.enter_context(cluster.joined(given.ray, given.name, insecure=given.insecure))
    return [joined], cluster.find_servers(given.name), ASK_S


async def _locate(
    config: ServerConfig,
    servers: Sequence[Address],
    find: Resolve,
    find_s: float,
    access: Access,
    say: Callable[[str], None],
) -> None:
    with stop_signals() as stop:
        await locate(config, servers, access, stop=stop, on_ready=say, resolve=find, resolve_s=find_s)


def front_config(given: Mapping[str, Any]) -> ServerConfig:
    """What the options say of the address itself.

    Raises:
        ValueError: names the field, its value and the range.
    """
    tls = {name.removeprefix("tls."): value for name, value in given.items() if name.startswith("tls.")}
    own = {option.field: given[option.field] for option in OPTIONS if option.flag in _FRONT_OPTIONS}
    own = {name: value for name, value in own.items() if not name.startswith("tls.")}
    return ServerConfig(tls=read_tls(**tls), **own)


def servers_access(given: Mapping[str, Any], environment: Mapping[str, str]) -> Access:
    """How the servers are asked.

    Raises:
        InvalidOption: options don't go together, or a file can't be read.
    """
    told = {variable: given[variable] for _, variable, _, _ in _ACCESS if given[variable] is not None}
    if given[TLS_VARIABLE]:
        told[TLS_VARIABLE] = "1"
    return replace(Access.from_environment({**environment, **told}), insecure=given["insecure"])


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="fleet",
        description="One address for the servers of many hosts.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser(
        "locate",
        help="name servers of a fixed list, a DNS name or a cluster of Ray; no state, so several may run",
        description="Watches servers and names the one that a session should go to. Frames don't come by here.",
    )
    watched = command.add_mutually_exclusive_group(required=True)
    watched.add_argument(
        "--servers",
        type=option_type(read_servers),
        metavar="HOST:PORT[,HOST:PORT...]",
        help="the servers, or fronts; a name with several addresses is a server at each",
    )
    watched.add_argument(
        "--ray", type=option_type(ray_address), metavar="ADDRESS", help="those of the fleet on this cluster of Ray"
    )
    command.add_argument("--name", default="default", help="the fleet's, with --ray; default default")
    own = [option for option in OPTIONS if option.flag in _FRONT_OPTIONS]
    own = [replace(option, help=_METRICS_HELP) if option.flag == "--metrics" else option for option in own]
    add_options(command, own, environment)
    command.add_argument(
        "--tls", dest=TLS_VARIABLE, action="store_true", help=f"ask the servers by TLS [{TLS_VARIABLE}=1]"
    )
    for flag, variable, metavar, described in _ACCESS:
        kind = option_type(file_name) if metavar == "FILE" else str
        command.add_argument(flag, dest=variable, type=kind, metavar=metavar, help=f"{described} [{variable}]")
    add_ray_commands(commands)
    for command in commands.choices.values():
        command.epilog = _EPILOG
    return parser


def read_servers(text: str) -> list[Address]:
    """Read `HOST:PORT,HOST:PORT`.

    Raises:
        ValueError: one is not of that form, or there twice.
    """
    servers = [Address.parse(part) for part in text.split(",")]
    for server in servers:
        if not server.port:
            raise ValueError(f"{server}: must name a port")
        if servers.count(server) > 1:
            raise ValueError(f"{server} is there twice")
    return servers


def _failed(error: Exception) -> int:
    sys.stderr.write(f"fleet: error: {error}\n")
    return _EXITS[type(error)]
