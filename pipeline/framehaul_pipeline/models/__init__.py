"""Which models are served: their configs, their weights files' headers, and how latents become frames.

Used by both processes. Reads configs and headers, and no tensors but a few small ones; imports no torch.
"""

__all__ = [
    "clip",
    "embedding",
    "hunyuan_video",
    "hunyuan_video_15",
    "ltx",
    "ltx_names",
    "minimax_h3",
    "model",
    "plugins",
    "safetensors_files",
    "saliency",
    "taehv",
    "wan",
    "wan_names",
]
