"""What a server of a front runs: `python -m framehaul_server.member FD PROCESSORS ARGUMENT...`.

It is the `server` command, which reports to its front over the socket FD, drains when that closes, and ends with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from functools import partial

from framehaul_pipeline.orphans import end_with_parent
from framehaul_server import cli, logs
from framehaul_server.app import App
from framehaul_server.config import ServerConfig
from framehaul_server.front.gpus import read_processors
from framehaul_server.front.members import REPORT_S
from framehaul_server.signals import STOP_SIGNALS

_log = logging.getLogger(__name__)


def main() -> int:
    """Run the server; gives its exit code."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    fd, processors, *arguments = sys.argv[1:]
    if processors:
        os.sched_setaffinity(0, read_processors(processors))
    with socket.socket(fileno=int(fd)) as front:
        front.setblocking(False)
        return cli.main(arguments, serve=partial(serve, front))


async def serve(front: socket.socket, config: ServerConfig) -> None:
    """Run the server until its front is gone, or lets it go.

    Raises:
        CannotListen: the address is in use, or not of this machine.
        WorkerFailed: the worker doesn't start, or died past its restart budget.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    reporting: list[asyncio.Task[None]] = []

    def ready(line: str) -> None:
        _log.info("%s", logs.line("ready", served=line))
        reporting.append(asyncio.create_task(_report(front, app)))

    def told() -> None:
        """The front never says anything: it has closed its half."""
        loop.remove_reader(front)
        stop.set()

    app = App(config, on_ready=ready)
    loop.add_reader(front, told)
    try:
        await app.run(stop)
    finally:
        loop.remove_reader(front)
        for each in reporting:
            each.cancel()
        await asyncio.gather(*reporting, return_exceptions=True)


async def _report(front: socket.socket, app: App) -> None:
    while True:
        with suppress(BlockingIOError, ConnectionError):  # a front that doesn't read gets the next one
            front.send(app.info().SerializeToString())
        await asyncio.sleep(REPORT_S)


if __name__ == "__main__":
    sys.exit(main())
