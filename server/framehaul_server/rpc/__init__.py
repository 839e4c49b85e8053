"""Where gRPC is spoken: handlers, connections, statuses, health, reflection and channel options.

Runs in the server process, on the event loop. May import every other folder; only `app` and `cli` import it.
"""

__all__ = ["boundary", "front", "health", "info", "listener", "service"]
