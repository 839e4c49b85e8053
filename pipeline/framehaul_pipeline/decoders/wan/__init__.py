"""The Wan VAE decoders (Wan 2.1, Wan 2.2, QwenImage): the network in plain torch, and the engine for CUDA.

Runs in the worker process, on its launch thread. Imports torch; the engine imports Triton and cuDNN.
"""

__all__ = []
