"""How the commands begin: what comes before the import of their modules, which takes up to a second."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Final

from framehaul.options import open_standard_files

EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130


def start(command: str, module: str) -> int:
    """Import a command's `module` and run its `main`; gives the exit code.

    Ctrl-C never prints a traceback. While modules are imported it ends the process at once: nothing has begun.
    """
    open_standard_files()
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # a shell's background jobs ignore it
        signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
    try:
        main = importlib.import_module(module).main
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{command}: {error.name} is not installed here: pip install 'framehaul[server]'\n")
        return EXIT_USAGE
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        code: int = main()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def client() -> int:
    """Run the `client` command; here, since the client's own package imports numpy and gRPC at its door."""
    return start("client", "framehaul_client.command.cli")


def pipeline() -> int:
    """Run the `pipeline` command."""
    return start("pipeline", "framehaul_pipeline.encode.cli")
