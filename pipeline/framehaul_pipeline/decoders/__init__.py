"""Decoders: the contract in `base`, one module or folder a decoder.

Runs in the worker process, on its launch thread. Imports torch.
"""

__all__ = ["base", "cuda_graphs", "engine", "registry", "restarting", "tiny", "weights"]
