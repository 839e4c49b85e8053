"""A video from Wan's diffusion model to an mp4 file, with the VAE on a frame server and not in this process.

    server --model wan2.1=/models/Wan2.1-T2V-1.3B-Diffusers/vae
    python wan_to_framehaul.py /models/Wan2.1-T2V-1.3B-Diffusers "a lake at dawn" lake.mp4 --model wan2.1

Needs the client, diffusers, transformers, accelerate and torch. `docs/diffusers.md` explains it.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import av
import numpy as np
import torch
from diffusers import WanPipeline

from framehaul_client import FrameClient


def sample(pipeline: WanPipeline, **request: Any) -> np.ndarray[Any, Any]:
    """Make latents `[T, C, h, w]` of one video, normalised as the pipeline leaves them; it needs no VAE for that."""
    latents = pipeline(**request, output_type="latent").frames[0]  # [C, T, h, w] of the batch's first
    return latents.transpose(0, 1).float().cpu().numpy()  # type: ignore[no-any-return]


async def save(latents: np.ndarray[Any, Any], path: str, *, target: str, model: str, fps: int = 16) -> None:
    """Write the server's frames into a file as they arrive."""
    async with (
        FrameClient(target) as client,
        client.session(latents, model=model, normalized=True) as session,
    ):
        with av.open(path, "w") as file:
            video = file.add_stream("libx264", rate=fps, options={"crf": "18"})
            video.height, video.width = session.opened.layout.height, session.opened.layout.width
            async for frame in session:  # [H, W, 3] uint8
                file.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            file.mux(video.encode(None))


def main() -> None:
    """Sample a video and stream it through the server."""
    parser = argparse.ArgumentParser(description="A video from a prompt, decoded by a frame server.")
    parser.add_argument("pipeline", help="folder of a WanPipeline")
    parser.add_argument("prompt")
    parser.add_argument("out", help="video file to write")
    parser.add_argument("--target", default="127.0.0.1:50051")
    parser.add_argument("--model", default="wan2.1", help="the VAE's name on the server")
    options = parser.parse_args()
    # No VAE here: its memory is free for the transformer. (Wan 2.2 5B: set pipeline.vae_scale_factor_spatial = 16.)
    pipeline = WanPipeline.from_pretrained(options.pipeline, vae=None, torch_dtype=torch.bfloat16).to("cuda")
    latents = sample(pipeline, prompt=options.prompt, height=480, width=832, num_frames=81)
    asyncio.run(save(latents, options.out, target=options.target, model=options.model))


if __name__ == "__main__":
    main()
