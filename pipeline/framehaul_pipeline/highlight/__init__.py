"""The seconds of a long film that show what is asked for: samples of it, and how they are ranked."""

__all__ = ["messages", "rank", "runs"]
