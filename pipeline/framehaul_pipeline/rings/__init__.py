"""Equal slots in shared memory, and the rules for who may touch which slot.

Used by both processes, the server and its worker. Imports no torch.
"""

__all__ = ["ring", "slots"]
