"""Traces: what server and client did, into a Perfetto file, and from there into a picture.

`perfetto` and `matplotlib` are of the extra `framehaul[observe]`, and imported only when a trace is made or drawn.
"""

__all__ = ["picture", "reader", "tracks", "writer"]
