"""Values in, values out: frames, latents, windows, grants, and what follows from a lost connection.

Does no I/O and knows neither asyncio nor gRPC.
"""

__all__ = [
    "events",
    "frames",
    "grant",
    "info",
    "latents",
    "opening",
    "parts",
    "printable",
    "reassembly",
    "retry",
    "session_config",
    "statistics",
    "window",
]
