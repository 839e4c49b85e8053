"""A front: one address for several servers; and the servers of one host's devices, as processes of its own.

Runs in the front's process, on the event loop. Decodes nothing and sees no frames; imports `rpc` and what is below it.
"""

__all__ = ["front", "gpus", "host", "members"]
