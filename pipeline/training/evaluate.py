"""Judges a weights file on the held-out clips: `python -m training.evaluate --media DIR --weights FILE --out DIR`.

Frames go through the same classes that serve: the encoder and decoder, one latent at a time with their state.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from framehaul_pipeline.decoders.tiny import WEIGHTS_PREFIX as DECODER_PREFIX
from framehaul_pipeline.decoders.tiny import TinyDecoder, TinyDecoderNet
from framehaul_pipeline.decoders.weights import load_weights
from framehaul_pipeline.encode.tiny_encoder import WEIGHTS_PREFIX as ENCODER_PREFIX
from framehaul_pipeline.encode.tiny_encoder import TinyEncoder, TinyEncoderNet
from framehaul_pipeline.spec import Geometry
from training.held_out import held_out_sets
from training.metrics import psnr_db, ssim
from training.pictures import save_pictures

log = logging.getLogger("training")


def load(path: Path, device: torch.device, dtype: torch.dtype) -> tuple[TinyEncoder, TinyDecoder]:
    """Read a weights file that training wrote."""
    encoder, decoder = TinyEncoderNet(), TinyDecoderNet()
    load_weights(encoder, path, ENCODER_PREFIX)
    load_weights(decoder, path, DECODER_PREFIX)
    for net in (encoder, decoder):
        net.to(device=device, dtype=dtype).to(memory_format=torch.channels_last)
    return TinyEncoder(encoder.eval()), TinyDecoder(decoder.eval())


def roundtrip(encoder: TinyEncoder, decoder: TinyDecoder, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Encode and decode one clip as a stream; latents travel as float16.

    Args:
        encoder: the encoder.
        decoder: the decoder.
        clip: `[T, 3, H, W]` in [0, 1].

    Returns:
        Frames `[T, 3, H, W]` in whole 8-bit levels of [0, 1], and latents `[T / 4, C, h, w]`.
    """
    height, width = clip.shape[2:]
    encoder_state = encoder.open(height, width)
    geometry = Geometry(channels=decoder.spec.channels, height=height // 8, width=width // 8)
    decoder_state = decoder.open(geometry, None)
    frames, sent = [], []
    for chunk in clip.split(4):
        latents, encoder_state = encoder.step(chunk * 2 - 1, encoder_state)
        latents = latents.half()
        decoded, decoder_state = decoder.step(latents.to(encoder.dtype), decoder_state)
        frames.append(((decoded.float() * 0.5 + 0.5).clamp(0, 1) * 255).round() / 255)
        sent.append(latents.float())
    return torch.cat(frames), torch.cat(sent)


def thumbnail(clip: Tensor) -> Tensor:
    """What a naive 8x thumbnail of every frame gives, enlarged again."""
    return functional.interpolate(functional.avg_pool2d(clip, 8), clip.shape[2:], mode="bicubic").clamp(0, 1)


def evaluate(
    weights: Path, media: Path, out: Path, device: torch.device, *, num_film: int, num_pictures: int
) -> dict[str, Any]:
    """Measure every held-out set, save side-by-side pictures, return the figures."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    encoder, decoder = load(weights, device, dtype)
    results: dict[str, Any] = {}
    shown: dict[str, list[tuple[Tensor, Tensor]]] = {}
    latents = []
    for name, clips in held_out_sets(media, device, num_film=num_film).items():
        scores, similarities, naive = [], [], []
        pairs: list[tuple[Tensor, Tensor]] = []
        for i, whole in enumerate(clips):
            clip = whole[: len(whole) // 4 * 4].to(device).float() / 255
            decoded, sent = roundtrip(encoder, decoder, clip)
            scores.append(psnr_db(clip, decoded))
            similarities.append(ssim(clip, decoded))
            naive.append(psnr_db(clip, thumbnail(clip)))
            log.info("%s %d: %.2f dB", name, i, float(scores[-1].mean()))
            if i * num_pictures // len(clips) == len(pairs) and len(pairs) < num_pictures:
                pairs.append((clip[len(clip) // 2].cpu(), decoded[len(clip) // 2].cpu()))
            latents.append(sent.transpose(0, 1).flatten(1))
        shown[name] = pairs
        by_clip = [round(float(score.mean()), 2) for score in scores]
        by_position = torch.cat(scores).view(-1, 4).mean(0)
        results[name] = {
            "clips": len(clips),
            "frames": int(torch.cat(scores).numel()),
            "psnr_db": round(float(torch.cat(scores).mean()), 2),
            "ssim": round(float(torch.cat(similarities).mean()), 4),
            "thumbnail_psnr_db": round(float(torch.cat(naive).mean()), 2),
            "psnr_db_by_clip": by_clip,
            "psnr_db_by_position": [round(float(v), 2) for v in by_position],
        }
        log.info("%s: %s", name, results[name])
    values = torch.cat(latents, 1)
    results["latents"] = {
        "mean": [round(float(v), 2) for v in values.mean(1)],
        "std": [round(float(v), 2) for v in values.std(1)],
        "max": round(float(values.abs().max()), 2),
    }
    out.mkdir(parents=True, exist_ok=True)
    save_pictures(shown, out)
    (out / "evaluation.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def main(argv: list[str] | None = None) -> None:
    """Read the command line and evaluate."""
    parser = argparse.ArgumentParser(prog="training.evaluate", description="Judge weights on held-out clips.")
    parser.add_argument("--media", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-film", type=int, default=12, help="windows of the film to judge")
    parser.add_argument("--num-pictures", type=int, default=4, help="pictures of each set")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    device = torch.device(arguments.device)
    counts = {"num_film": arguments.num_film, "num_pictures": arguments.num_pictures}
    evaluate(arguments.weights, arguments.media, arguments.out, device, **counts)


if __name__ == "__main__":
    main()
