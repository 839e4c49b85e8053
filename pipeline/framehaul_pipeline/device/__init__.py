"""What the worker needs of a device: streams, events, attached rings, and the conversion to frames' final format.

Runs in the worker process. Imports torch, and Triton on CUDA.
"""

__all__ = ["convert", "devices", "streams"]
