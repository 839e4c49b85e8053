"""The messages between the server and its worker, and the socket that carries them.

Used by both processes. Imports no torch; nothing is pickled.
"""

__all__ = ["channel", "messages"]
