"""Where latents come from: files, arrays and iterators, and the history kept for sending them again.

Reads files. Knows no gRPC.
"""

__all__ = ["arrays", "history", "iterators", "latents_file", "latents_pipe", "tee"]
