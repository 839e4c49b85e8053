"""What the `fleet` command does with a cluster of Ray: up, status, drain, down, and where the servers are.

What a fleet is to be is told by a new registry in the place of the last one, for Ray keeps what that was made with. The
servers go on, and report to the new one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

import ray
from ray.exceptions import RayError

from framehaul.address import Address
from framehaul_fleet.errors import FleetFailed
from framehaul_fleet.on_ray.access import check_access, uses_tls
from framehaul_fleet.on_ray.plan import DRAIN_MARGIN_S, REGISTRY, SERVER_PREFIX, FleetSpec, namespace_of
from framehaul_fleet.on_ray.registry import Registry

_ANSWER_S: Final = 10.0
_AWAY_S: Final = 60.0
"""For a registry whose node has died to be somewhere else: Ray takes half a minute to notice."""
_LOOK_S: Final = 0.5
_OWN: Final = "auto"
_WRONG_OPTION: Final = 2
"""The `server` command's exit code."""
_MOST_FAILURES: Final = 3
_NEEDED: Final = "all nodes need framehaul[server,fleet], of this version"

Say = Callable[[str], None]


@contextmanager
def joined(address: str, name: str, *, insecure: bool) -> Iterator[Address]:
    """Join the cluster at `address`, in the fleet's namespace, and leave it; gives the address of its control plane.

    Raises:
        FleetFailed: there is none; it doesn't let this process in; it lets in anybody, and `insecure` doesn't allow
            that; or files of Ray's TLS are missing.
    """
    check = partial(check_access, encrypted=uses_tls(os.environ), insecure=insecure)
    if address != _OWN:
        check(address)
    # Ray tells each driver of the fleet's own restarts otherwise.
    os.environ.setdefault("RAY_LOG_TO_DRIVER_EVENT_LEVEL", "error")
    try:
        _init(address, name)
        found = ray.get_runtime_context().gcs_address
        if address == _OWN:
            check(found)
        yield Address.parse(found)
    finally:
        ray.shutdown()  # and the thread with it that prints errors of the whole cluster


def _init(address: str, name: str) -> None:
    try:
        ray.init(
            address=address,
            namespace=namespace_of(name),
            log_to_driver=False,
            logging_level="error",
            configure_logging=True,
        )
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        hint = "; it may want another token than this process has" if isinstance(error, ConnectionError) else ""
        raise FleetFailed(f"ray={address}: {_first_line(error)}{hint}") from error


def put(spec: FleetSpec) -> None:
    """Let the fleet be as `spec` says from now on.

    Raises:
        FleetFailed: no registry comes up.
    """
    _kill(REGISTRY)
    end_s = time.monotonic() + _ANSWER_S
    while True:
        try:
            registry = _create(spec)
        except ValueError as error:  # the last one's name isn't free at once
            if time.monotonic() > end_s:
                raise FleetFailed(f"the last registry stays: {_first_line(error)}") from error
            time.sleep(_LOOK_S)
        else:
            break
    try:
        ray.get(registry.spec.remote(), timeout=_AWAY_S)
    except RayError as error:
        raise FleetFailed(f"the registry doesn't start: {_last_line(error)}; {_NEEDED}") from error


def up(spec: FleetSpec, wait_s: float, say: Say) -> None:
    """Start a fleet, or change one, and wait until it has as many servers as it must have, with these options.

    Raises:
        FleetFailed: it has too few by then, or one doesn't take its options. They are still being started.
    """
    put(spec)
    end_s = time.monotonic() + wait_s
    while True:
        found = status(spec.name)
        ready = [each for each in found["servers"] if each["state"] == "ready" and each["as_told"]]
        if len(ready) >= spec.least:
            say(f"fleet: {len(ready)} servers ready: " + ", ".join(each["target"] for each in ready))
            return
        _check(found)
        if time.monotonic() > end_s:
            raise FleetFailed(
                f"{len(ready)} of {spec.least} servers are ready after {wait_s:g} s: {_states(found)}; Ray goes on "
                "trying. `fleet status` shows them, the actors' logs in Ray's session folder say why"
            )
        time.sleep(_LOOK_S)


def status(name: str) -> dict[str, Any]:
    """What the registry knows; one that has just been started is given time to hear of all servers.

    Raises:
        FleetFailed: there is none, or it doesn't answer.
    """
    end_s = time.monotonic() + _ANSWER_S
    while True:
        found: dict[str, Any] = _ask(name, "status")
        if found["settled"] or time.monotonic() > end_s:
            return found
        time.sleep(_LOOK_S)


def drain(name: str, host: str, say: Say) -> None:
    """Take a host's servers out, and put no others there, until the fleet is told anew with `up`.

    Raises:
        FleetFailed: the cluster has no such node, or its servers live on.
    """
    spec: FleetSpec = _ask(name, "spec")
    nodes = {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if host in (node["NodeManagerAddress"], node["NodeManagerHostname"], node["NodeID"])
    }
    if not nodes:
        known = sorted({node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]})
        raise FleetFailed(f"host={host!r}: must be the name, address or node id of one of {', '.join(known)}")
    put(replace(spec, drained=spec.drained | set(nodes)))
    _until_gone(name, spec.grace_s, lambda server: server.get("node") in nodes, say)
    say(f"fleet: {host} has no servers any more")


def down(name: str, say: Say) -> None:
    """End a fleet: its servers drain, then all of it is gone.

    Raises:
        FleetFailed: there is none.
    """
    spec: FleetSpec = _ask(name, "spec")
    put(replace(spec, least=0, most=0))
    try:
        _until_gone(name, spec.grace_s, lambda _server: True, say)
    finally:
        for actor in [REGISTRY, *_servers()]:
            _kill(actor)
    say("fleet: down")


def find_servers(name: str) -> Callable[[Address], Awaitable[list[Address]]]:
    """How a locator finds the servers of the cluster that it is told; none while the registry is away."""

    async def find(_cluster: Address) -> list[Address]:
        try:
            return [Address.parse(target) for target in await asyncio.to_thread(_ask, name, "targets", wait_s=0.0)]
        except (FleetFailed, RayError, RuntimeError):
            return []

    return find


def _until_gone(name: str, grace_s: float, which: Callable[[dict[str, Any]], bool], say: Say) -> None:
    end_s = time.monotonic() + grace_s + 2 * DRAIN_MARGIN_S
    before = -1
    while True:
        found = status(name)
        left = [server for server in found["servers"] if which(server)]
        if found["settled"] and len(left) != before:
            before = len(left)
            say(f"fleet: {before} servers to drain, {sum(each.get('sessions', 0) for each in left)} sessions there")
        if not left and found["settled"]:
            return
        if time.monotonic() > end_s:
            raise FleetFailed(
                f"{', '.join(server['name'] for server in left)}: still there after {grace_s:g} s of grace"
            )
        time.sleep(_LOOK_S)


def _servers() -> list[str]:
    return [each for each in ray.util.list_named_actors() if each.startswith(SERVER_PREFIX)]


def _ask(name: str, method: str, *, wait_s: float = _AWAY_S) -> Any:
    """Ask the registry; one that Ray starts again just now, or that another command replaces, is waited for."""
    began_s = time.monotonic()
    end_s, replaced_s = began_s + wait_s, began_s + min(wait_s, _ANSWER_S)
    while True:
        try:
            registry = ray.get_actor(REGISTRY)
        except ValueError as error:
            left = _servers()
            if left and time.monotonic() < replaced_s:
                time.sleep(_LOOK_S)
                continue
            hint = "; its registry is gone, its servers aren't: `fleet up` makes another" if left else ""
            raise FleetFailed(f"name={name!r}: this cluster has no fleet of that name{hint}") from error
        except RayError as error:
            raise FleetFailed(f"Ray doesn't answer: {_first_line(error)}") from error
        try:
            return ray.get(getattr(registry, method).remote(), timeout=_ANSWER_S)
        except RayError as error:
            if time.monotonic() > end_s:
                raise FleetFailed(f"the registry doesn't answer: {_first_line(error)}") from error
            time.sleep(_LOOK_S)


def _create(spec: FleetSpec) -> Any:
    actor = ray.remote(Registry).options(
        name=REGISTRY, lifetime="detached", max_restarts=-1, num_cpus=0, max_concurrency=16
    )
    return actor.remote(spec)


def _kill(actor: str) -> None:
    try:
        ray.kill(ray.get_actor(actor))
    except ValueError:
        return


def _check(found: dict[str, Any]) -> None:
    """See that waiting may help.

    Raises:
        FleetFailed: it doesn't.
    """
    if found["failures"] >= _MOST_FAILURES:
        raise FleetFailed(
            f"actors end before they tell anything; {_NEEDED}; logs/worker-*.err in Ray's session folders say more. "
            "Others are still tried; `fleet down` ends that"
        )
    for each in found["servers"]:
        if each["as_told"] and each["state"] == "starting" and each["exit_code"] == _WRONG_OPTION:
            raise FleetFailed(
                f"{each['host']}: the server ended with exit code {_WRONG_OPTION}: an option is wrong, or a file that "
                f"it names, or the host is too small; logs/worker-*-{each['pid']}.err in Ray's session folder there "
                "says more. Try `fleet up` again, or end it with `fleet down`"
            )


def _states(found: dict[str, Any]) -> str:
    states = [server["state"] for server in found["servers"]]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "none known"
    codes = {server["exit_code"] for server in found["servers"] if server.get("exit_code") is not None}
    return counted + (f", exit codes {', '.join(map(str, sorted(codes)))}" if codes else "")


def _last_line(error: Exception) -> str:
    return next(reversed(str(error).strip().splitlines()), type(error).__name__).strip()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
