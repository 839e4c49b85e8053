"""One session from its opening to its end, through any number of connections and workers.

Runs in the server process, on the event loop. Knows asyncio, and no gRPC: a connection is a Protocol here.
"""

__all__ = ["detached", "frames_out", "outbox", "session", "waiting", "worker_link"]
