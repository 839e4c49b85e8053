"""What makes convolutional decoders fast on CUDA, whichever model they are of: convolutions, norms, pixels, lanes.

Runs in the worker process, on its launch thread. Imports torch, Triton and cuDNN.
"""

__all__ = ["convolution", "group_norm", "lanes", "pending", "pixels", "plans", "weights"]
