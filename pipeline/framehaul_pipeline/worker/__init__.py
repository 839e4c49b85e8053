"""The worker process: four threads that decode, convert, copy and publish.

Runs in the worker process alone, which owns the device. May import torch.
"""

__all__ = []
