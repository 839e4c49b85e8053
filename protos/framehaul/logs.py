"""The form of the log, one for the server and its worker: both write to the same stderr."""

from __future__ import annotations

import logging
import sys
import time
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error")
LEVEL_VARIABLE: Final = "FRAMEHAUL_LOG_LEVEL"
"""In the environment: how a server tells its worker."""


def configure(level: str) -> None:
    """Send this process's log to stderr, with times in UTC; `level` is one of `LEVELS`."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
