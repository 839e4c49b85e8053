"""No core dumps: a crashed server or worker must not leave clients' frames on a disk."""

from __future__ import annotations

import resource


def forbid() -> None:
    """For this process and its children, for good."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
