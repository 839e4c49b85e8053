"""One film that is searched: where it comes from, its readers, its samples, and what is told.

One event loop, asyncio, no gRPC.
"""

__all__ = ["readers", "request", "source"]
