"""Where frames end up: a video file, a stream of raw video, or images.

Writes files, in an encoder thread of its own. Knows no gRPC.
"""

__all__ = ["base", "choice", "containers", "encoder", "video", "video_options"]
