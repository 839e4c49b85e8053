"""Who is next, who is let in, and how long a chunk may take.

Used by both processes. Values in, values out: no I/O, no threads, no torch.
"""

__all__ = ["batches", "chunk_limits", "chunks", "feeder", "in_flight", "memory", "restarts", "suspects"]
