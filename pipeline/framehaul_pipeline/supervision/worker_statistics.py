"""How full a worker is, in numbers. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """How full the rings and the device's memory are now."""

    num_slots: int
    num_leased: int
    num_inlet_slots: int
    num_inlet_free: int
    num_sessions: int
    session_memory_bytes: int
    """Device memory for sessions; 0: unlimited."""
    session_memory_used_bytes: int
    num_parked: int
    """Sessions whose state is in host memory."""
