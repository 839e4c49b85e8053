"""Where latents come from: files, arrays and iterators, and the history kept for sending them again.

Reads files. Knows no gRPC.
"""

__all__ = ["history", "iterators", "latents_file"]
