"""Which of cuDNN's plans is the fastest for which convolution: kept for the next start, and for a dead worker's heir.

The fastest is found by trial, so two workers that both try may choose differently, and their frames differ in the last
bits. A worker that goes on for a dead one must not: its frames are compared with those that clients have. So the first
worker of a server writes down all that it serves with, in the heirloom that it leaves to the next, before it decodes
anything; those that follow take that and time nothing. The cache on disk saves the next start the trials: it may be
missing, read-only, or another server's to write to as well.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from framehaul_pipeline.link.heirloom import Heirloom

_log = logging.getLogger(__name__)


class PlanTable:
    """Names of plans by convolution, on one kind of device with one version of cuDNN."""

    def __init__(self, cache: Path, heirloom: Heirloom) -> None:
        """Take the table in `heirloom`, else that of the file `cache`; one that can't be read counts as empty."""
        self._cache = cache
        self._heirloom = heirloom
        inherited = _parse(heirloom.read())  # None as well where a worker died over it, which decoded nothing
        self._settled = inherited is not None
        self._names = self._cached() if inherited is None else inherited

    def get(self, size: str, weights: str) -> tuple[list[str], bool]:
        """Names of the plans that were the fastest, the surest first, and whether this very convolution was timed.

        Args:
            size: of the input.
            weights: the convolution but for the input's size.
        """
        alike = [name for key, name in self._names.items() if key.endswith(weights)]
        known = self._names.get(size + weights)
        names = dict.fromkeys(([known] if known else []) + sorted(alike, key=alike.count, reverse=True))
        return list(names), known is not None

    def put(self, size: str, weights: str, name: str) -> None:
        """Keep a choice; a folder that can't be written costs only the next start its time."""
        self._names[size + weights] = name
        try:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            written = self._cache.with_suffix(f".{os.getpid()}")
            # Other servers write there too; what they wrote meanwhile stays.
            written.write_text(json.dumps(self._cached() | self._names, indent=1, sort_keys=True) + "\n")
            written.replace(self._cache)
        except OSError as error:
            _log.warning("convolution plans are not kept path=%s error=%s", self._cache, error)

    def settle(self) -> None:
        """Write the table down for the workers that follow; before the first frame is decoded for a client."""
        if not self._settled:
            self._settled = True
            self._heirloom.write(json.dumps(self._names).encode())

    def _cached(self) -> dict[str, str]:
        try:
            return _parse(self._cache.read_bytes()) or {}
        except OSError:
            return {}


def cache_path(device: str, cudnn_version: int) -> Path:
    """The cache's file for devices of this name, below `$XDG_CACHE_HOME/framehaul`."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "framehaul" / f"plans-{device.replace(' ', '-')}-cudnn-{cudnn_version}.json"


def _parse(raw: bytes) -> dict[str, str] | None:
    try:
        names = json.loads(raw)
    except ValueError:
        return None
    return {str(key): str(name) for key, name in names.items()} if isinstance(names, dict) else None
