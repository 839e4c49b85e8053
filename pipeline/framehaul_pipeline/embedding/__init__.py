"""Networks that turn pictures and texts into features, and how alike those are. Runs in the worker; imports torch."""

__all__ = ["clip", "embedder"]
