"""Excerpts of long videos: asked of a server, cut out of the caller's own file, and drawn.

The client's process; knows FFmpeg, and gRPC by `transport` alone.
"""

__all__ = ["copying", "picture", "request"]
