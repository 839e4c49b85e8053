"""What can go wrong in a fleet."""

from __future__ import annotations


class FleetFailed(Exception):
    """The cluster, or the fleet on it, doesn't do what it was asked for."""
