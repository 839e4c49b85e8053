"""The `fleet` command's options for a fleet on Ray, read without Ray."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Final

from framehaul.address import Address
from framehaul.options import CommandParser, option_type
from framehaul_fleet.errors import FleetFailed
from framehaul_fleet.on_ray.plan import OWN_FLAGS, FleetSpec
from framehaul_server.cli import add_options
from framehaul_server.config import OPTIONS

_COLUMNS: Final = ("name", "state", "host", "target", "sessions", "queued", "places", "pid", "known_s")


def add_ray_commands(commands: Any) -> None:
    """Add `up`, `status`, `drain` and `down` to the command line."""
    up = _command(commands, "up", "start a fleet on a cluster of Ray, or change one that runs")
    number = up.add_mutually_exclusive_group(required=True)
    number.add_argument("--gpus", type=int, metavar="N", help="servers, on a GPU each")
    number.add_argument("--cpus", type=int, metavar="N", help="servers, on a processor each")
    up.add_argument("--min", type=int, metavar="N", help="fewest servers, default N")
    up.add_argument("--max", type=int, metavar="N", help="most servers, default N; more or fewer by load")
    up.add_argument(
        "--sessions-per-server",
        type=int,
        default=0,
        metavar="N",
        help="those that scaling aims at; default 0: 4/5 of the most that a server takes",
    )
    up.add_argument(
        "--hold", type=float, default=60.0, metavar="SECONDS", help="of low load before a server is drained, default 60"
    )
    up.add_argument(
        "--start-timeout",
        type=float,
        default=900.0,
        metavar="SECONDS",
        help="for a server to be placed and ready, default 900",
    )
    up.add_argument(
        "--grace", type=float, default=30.0, metavar="SECONDS", help="for sessions of a server that drains, default 30"
    )
    up.add_argument("--metrics", action="store_true", help="each server has its metrics; `fleet locate` says where")
    up.add_argument("--wait", type=float, default=900.0, metavar="SECONDS", help="for --min servers, default 900")
    up.add_argument(
        "arguments", nargs="*", metavar="-- SERVER_OPTION", help="options of the `server` command, after --"
    )
    _command(commands, "status", "show a fleet's servers").add_argument("--json", action="store_true")
    drain = _command(commands, "drain", "take a host out: its sessions end or move, nothing new comes to it")
    drain.add_argument("host", metavar="HOST", help="name, address or node id")
    _command(commands, "down", "drain all servers, then end the fleet")


def _command(commands: Any, name: str, described: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=described, description=described)
    command.add_argument(
        "--ray",
        required=True,
        type=option_type(ray_address),
        metavar="ADDRESS",
        help="of the cluster, HOST:PORT, or auto for this node's",
    )
    command.add_argument("--name", default="default", help="the fleet's; default default")
    command.add_argument(
        "--insecure",
        action="store_true",
        help="use a cluster that lets in callers without a token; for networks whose every machine is trusted",
    )
    return command


def ray_address(text: str) -> str:
    """Read `HOST:PORT`, or `auto`.

    Raises:
        ValueError: it is neither.
    """
    return text if text == "auto" else str(Address.parse(text))


def read_spec(given: argparse.Namespace) -> FleetSpec:
    """What `fleet up` is told.

    Raises:
        ValueError: names the field, its value and the range.
    """
    number = given.cpus if given.gpus is None else given.gpus
    if number < 1:
        raise ValueError(f"{'cpus' if given.gpus is None else 'gpus'}={number}: must be 1 or more")
    least = number if given.min is None else given.min
    if not least:
        raise ValueError("min=0: must be 1 or more, for who would see that there is load?")
    check_server_arguments(given.arguments)
    return FleetSpec(
        name=given.name,
        least=least,
        most=number if given.max is None else given.max,
        gpus=given.gpus is not None,
        sessions=given.sessions_per_server,
        hold_s=given.hold,
        start_s=given.start_timeout,
        grace_s=given.grace,
        metrics=given.metrics,
        arguments=tuple(given.arguments),
    )


def check_server_arguments(arguments: Sequence[str]) -> None:
    """See that the `server` command has these options; what files hold only the servers can see.

    Raises:
        SystemExit: with code 2, having said what is wrong.
    """
    parser = CommandParser(prog="fleet up", add_help=False)
    add_options(parser, [option for option in OPTIONS if option.flag not in OWN_FLAGS], {})
    parser.parse_args(arguments)


def run_ray_command(parser: argparse.ArgumentParser, given: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Do what is asked; gives the exit code.

    Raises:
        FleetFailed: the cluster, or the fleet on it, doesn't do it.
    """
    try:
        spec = read_spec(given) if given.command == "up" else FleetSpec(name=given.name)
    except ValueError as error:
        parser.error(str(error))
    cluster = import_cluster()
    with cluster.joined(given.ray, given.name, insecure=given.insecure):
        if given.command == "up":
            cluster.up(spec, given.wait, say)
        elif given.command == "status":
            found = cluster.status(given.name)
            say(json.dumps(found) if given.json else status_text(found))
        elif given.command == "drain":
            cluster.drain(given.name, given.host, say)
        else:
            cluster.down(given.name, say)
    return 0


def import_cluster() -> ModuleType:
    """Ray is large, may be missing, and is imported only when it is used.

    Raises:
        FleetFailed: it is missing.
    """
    try:
        from framehaul_fleet.on_ray import cluster
    except ModuleNotFoundError as error:
        raise FleetFailed(f"{error.name} is not installed here: pip install 'framehaul[server,fleet]'") from error
    return cluster


def status_text(found: dict[str, Any]) -> str:
    """As a table."""
    servers = found["servers"]
    rows = [_COLUMNS, *(tuple(str(server.get(column, "-")) for column in _COLUMNS) for server in servers)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    ready = sum(server["state"] == "ready" for server in servers)
    head = f"{found['name']}: {ready} ready, {found['desired']} desired of {found['min']}..{found['max']}"
    if others := sum(not server["as_told"] for server in servers):
        head += f", {others} with options of before"
    if found["failures"]:
        head += f", {found['failures']} failed starts in a row"
    if found["drained"]:
        head += f", drained nodes: {', '.join(found['drained'])}"
    return "\n".join([head, *lines])
