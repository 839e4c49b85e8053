"""The `client` command: parses, runs, and turns every expected failure into one line and an exit code."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from framehaul_client.command.arguments import access, make_parser, stream_config
from framehaul_client.command.exits import Exit, exit_code
from framehaul_client.command.info import fetch_info, info_json, info_text
from framehaul_client.command.model_table import model_lines, models_json
from framehaul_client.command.progress import choose_progress
from framehaul_client.command.stream import stream
from framehaul_client.errors import FramehaulError, OutputClosed, Refused
from framehaul_client.sinks.choice import STDOUT

_LOG: Final = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


class _Terminated(Exception):
    """SIGTERM ended the run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = make_parser().parse_args(arguments)
    _configure_logging(debug=given.debug)
    try:
        return _run(given)
    except KeyboardInterrupt:
        _LOG.error("interrupted")
        return Exit.INTERRUPTED
    except _Terminated:
        _LOG.error("terminated")
        return Exit.TERMINATED
    except FramehaulError as error:
        _report_error(error, debug=given.debug)
        return exit_code(error)
    except BrokenPipeError:
        _forget_stdout()
        return Exit.READER_GONE
    except Exception as error:
        _LOG.error("fault: %s: %s (please report it, with --debug)", type(error).__name__, error, exc_info=given.debug)
        return Exit.FAULT


def _configure_logging(*, debug: bool) -> None:
    """Send this package's log to stderr; the root logger is left alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("client: %(message)s"))
    package = logging.getLogger("framehaul_client")
    package.handlers = [handler]
    package.setLevel(logging.DEBUG if debug else logging.WARNING)


def _run(given: argparse.Namespace) -> Exit:
    if given.command == "info":
        info = asyncio.run(_until_terminated(fetch_info(given.target, given.connect_timeout, access(given))))
        text = info_json(info) if given.json else info_text(given.target, info)
        out = sys.stdout
    elif given.command == "models":
        models = asyncio.run(_until_terminated(fetch_info(given.target, given.connect_timeout, access(given)))).models
        text = models_json(models, given.size) if given.json else "\n".join(model_lines(models, given.size))
        out = sys.stdout
    else:
        with choose_progress(quiet=given.quiet) as progress:
            report = asyncio.run(_until_terminated(stream(stream_config(given), progress)))
        text = report.as_json() if given.json else report.as_text()
        out = sys.stderr if given.out == STDOUT else sys.stdout
    if given.json or given.command != "stream" or not given.quiet:
        out.write(f"{text}\n")
        out.flush()
    return Exit.OK


async def _until_terminated(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Let SIGTERM cancel `work` as Ctrl-C does; both then clean up."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "runs in a task"
    terminated = asyncio.Event()

    def terminate() -> None:
        terminated.set()
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await work
    except asyncio.CancelledError:
        if terminated.is_set():
            raise _Terminated from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def _report_error(error: FramehaulError, *, debug: bool) -> None:
    if isinstance(error, OutputClosed):
        _LOG.debug("%s", error)
        return
    again = ""
    if isinstance(error, Refused) and error.retry_after_s is not None:
        again = f" (try again in {error.retry_after_s:g} s)"
    _LOG.error("%s%s", error, again, exc_info=debug)


def _forget_stdout() -> None:
    """Point stdout to nowhere: Python flushes it once more at exit, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
