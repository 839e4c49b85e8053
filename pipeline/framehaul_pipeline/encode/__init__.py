"""The `pipeline` command: makes latents files from videos, with the encoder of the built-in model.

A process of its own. Imports torch and FFmpeg's libraries (PyAV).
"""

__all__ = ["video_input"]
