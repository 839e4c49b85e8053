"""Saliency: where people look in a video, by TASED-Net.

Runs in the worker process, on its launch thread. Imports torch.
"""

__all__ = ["mapper"]
