"""The server's side of its worker: starts, feeds, watches and replaces it.

Runs in the server process, on the event loop. Imports no torch, and no decoder.
"""

__all__ = ["epoch", "reader", "supervisor"]
