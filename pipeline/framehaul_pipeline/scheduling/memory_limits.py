"""How much memory sessions' state may take, on the device and on the host. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PAGE_BYTES: Final = 16 << 20
"""What session memory is counted in. Copies of this size run at full speed."""
_MAX_RESERVE_BYTES: Final = 1 << 30
_MAX_DEFAULT_PARK_BYTES: Final = 16 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimits:
    """What sessions may use."""

    device_bytes: int | None = None
    """None: what the device offers, less a reserve; unlimited on a device that has no memory of its own."""
    park_bytes: int = 0
    """Host memory for parked sessions; 0: none is parked."""
    page_bytes: int = PAGE_BYTES

    def device_total(self, free_bytes: int | None) -> int | None:
        """Device memory for sessions when `free_bytes` are free, None: not known; gives None for no limit."""
        if free_bytes is None:
            return self.device_bytes
        # What is left stays for the driver, libraries' own workspaces and gaps between allocations.
        offered = free_bytes - min(_MAX_RESERVE_BYTES, free_bytes // 10)
        return offered if self.device_bytes is None else min(offered, self.device_bytes)


def default_park_bytes(host_bytes: int) -> int:
    """Host memory for parked sessions on a host that has `host_bytes`: a quarter, and no more than 16 GiB.

    Three sessions of Wan at 720x1280; one of those places must stay free for swapping.
    """
    return min(_MAX_DEFAULT_PARK_BYTES, host_bytes // 4)
