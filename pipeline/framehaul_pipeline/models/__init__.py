"""Which models are served: their configs, their weights files' headers, and how latents become frames.

Used by both processes. Reads configs and headers, never tensors; imports no torch.
"""

__all__ = [
    "clip",
    "embedding",
    "hunyuan_video",
    "minimax_h3",
    "model",
    "plugins",
    "safetensors_files",
    "taehv",
    "wan",
    "wan_names",
]
