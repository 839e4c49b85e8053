"""The `client` command: parses, runs, and turns every expected failure into one line and an exit code."""

from __future__ import annotations

import asyncio
import io
import logging
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TextIO, TypeVar

from framehaul.files import check_apart
from framehaul.options import CannotSay, forget, say
from framehaul_client.access import Access
from framehaul_client.command.arguments import DEFAULT_FPS, Options, parse
from framehaul_client.command.exits import Exit, exit_code
from framehaul_client.command.highlight import highlight
from framehaul_client.command.info import cost_lines, fetch_info, info_json, info_text, model_lines, models_json
from framehaul_client.command.probe import probe
from framehaul_client.command.progress import Style, choose_progress
from framehaul_client.command.report import error_json
from framehaul_client.command.stream import stream
from framehaul_client.command.timeline import timeline
from framehaul_client.command.trace import trace
from framehaul_client.core.highlights import numbered
from framehaul_client.core.printable import printable
from framehaul_client.errors import FramehaulError, InvalidOption, OutputClosed, Refused
from framehaul_client.sinks.choice import STDOUT

_LOG: Final = logging.getLogger(__name__)
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)

ResultT = TypeVar("ResultT")


class _Formatter(logging.Formatter):
    """Keeps from the terminal what it would obey: texts name files, and what servers said."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, super().format(record).split("\n")))


class _Terminated(Exception):
    """SIGTERM ended the run, or its terminal closed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = parse(arguments)
    _configure_logging(debug=options.debug)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be any bytes
    try:
        return _run(options)
    except KeyboardInterrupt:
        _LOG.error("interrupted")
        return Exit.INTERRUPTED
    except _Terminated:
        _LOG.error("terminated")
        return Exit.TERMINATED
    except FramehaulError as error:
        _report_error(error, debug=options.debug)
        return exit_code(error)
    except CannotSay as error:
        _LOG.error("%s", error)
        return Exit.OUTPUT
    except BrokenPipeError:
        forget(sys.stdout)
        return Exit.READER_GONE
    except Exception as error:
        _LOG.error(
            "fault: %s: %s (please report it, with --debug)", type(error).__name__, error, exc_info=options.debug
        )
        return Exit.FAULT


def _configure_logging(*, debug: bool) -> None:
    """Send this package's log to stderr; the root logger is left alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("client: %(message)s"))
    package = logging.getLogger("framehaul_client")
    package.handlers = [handler]
    package.setLevel(logging.DEBUG if debug else logging.WARNING)


def _run(options: Options) -> Exit:
    if options.command == "probe":
        return asyncio.run(_until_terminated(probe(options, options.access())))
    try:
        text = _answer(options)
    except FramehaulError as error:
        if options.json or options.scores_json == STDOUT:
            say(error_json(error), _out(options))
        raise
    if text:
        say(text, _out(options))
    return Exit.OK


def _answer(options: Options) -> str:
    """Do what was asked for, and return what there is to say about it."""
    _check_files(options)
    if options.command == "timeline":
        return timeline(options)
    access = options.access()
    if options.command == "top":
        _top(options, access)
        return ""
    if options.command == "stream":
        style = Style(options.progress or (Style.NONE if options.quiet else Style.AUTO))
        with choose_progress(style, _out(options)) as progress:
            report = asyncio.run(_until_terminated(stream(options, access, progress)))
        return report.as_json() if options.json else "" if options.quiet else report.as_text()
    if options.command == "highlight":
        style = Style.NONE if options.quiet else Style.AUTO
        with choose_progress(style, _out(options)) as progress:
            return asyncio.run(_until_terminated(highlight(options, access, progress)))
    if options.command == "trace":
        return asyncio.run(_until_terminated(trace(options, access)))
    info = asyncio.run(_until_terminated(fetch_info(options.target, options.connect_timeout, access)))
    if options.command == "info":
        return info_json(info) if options.json else info_text(options.target, info)
    fps = options.fps or DEFAULT_FPS
    if options.json:
        return models_json(info.models, options.size, price=options.price, fps=fps)
    lines = model_lines(info.models, options.size)
    if options.price is not None:
        lines += ["", *cost_lines(info.models, options.price, fps, options.size)]
    return "\n".join(lines)


def _check_files(options: Options) -> None:
    """See that no output replaces what is read, or another output.

    Raises:
        InvalidOption: one does.
    """
    read = [("latents", options.latents), ("film", options.film), ("TRACE", options.file), ("audio", options.audio)]
    read += [("image", image) for image in options.image or ()]
    written: list[tuple[str, str | None]] = [
        (name, numbered(path, number, options.clips))
        for name, path in (("out", options.out), ("saliency", options.saliency))
        if path
        for number in range(1, options.clips + 1)
    ]
    written += [("draft-out", options.draft_out), ("trace", options.trace), ("plot", options.plot)]
    written += [("json", options.scores_json)]
    outputs, inputs = ([(name, path) for name, path in paths if path and path != STDOUT] for paths in (written, read))
    try:
        check_apart(outputs, inputs)
    except ValueError as error:
        raise InvalidOption(str(error)) from error


def _out(options: Options) -> TextIO:
    """Where answers go: not into the video."""
    outputs = (options.out, options.draft_out, options.saliency)
    on_stdout = options.command in ("stream", "highlight") and STDOUT in outputs
    return sys.stderr if on_stdout else sys.stdout


def _top(options: Options, access: Access) -> None:
    try:
        from framehaul_client.command.top import top
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        raise InvalidOption(
            "client top draws with rich, which isn't installed: pip install 'framehaul[observe]'"
        ) from error
    top(options.server, access, once=options.once)


async def _until_terminated(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Let SIGTERM and SIGHUP, unless nohup ignores it, cancel `work` as Ctrl-C does, so that it cleans up."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "runs in a task"
    terminated = asyncio.Event()

    def terminate() -> None:
        terminated.set()
        task.cancel()

    heard = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, terminate)
    try:
        return await work
    except asyncio.CancelledError:
        if terminated.is_set():
            raise _Terminated("terminated") from None
        raise
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


def _report_error(error: FramehaulError, *, debug: bool) -> None:
    if isinstance(error, OutputClosed):
        _LOG.debug("%s", error)
        return
    again = ""
    if isinstance(error, Refused) and error.retry_after_s is not None:
        again = f" (try again in {error.retry_after_s:g} s)"
    _LOG.error("%s%s", error, again, exc_info=debug)
