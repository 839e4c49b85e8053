"""The caller's OpenTelemetry span, told to the server, whose own spans then stand below it."""

from __future__ import annotations

import sys

from framehaul_client.access import Metadata


def span_metadata() -> Metadata:
    """`traceparent` and what else the caller's propagators write; nothing in a program that has no spans."""
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple((name.lower(), value) for name, value in carrier.items())
