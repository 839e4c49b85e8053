"""What the worker needs of a device: streams, events, attached rings, and the conversion to frames' final format.

Runs in the worker process. Imports torch, and Triton on CUDA; `host_memory` neither, the server asks it as well.
"""

__all__ = ["convert", "devices", "host_memory", "streams"]
