"""A clip cut into parts that are decoded side by side; pure."""

from __future__ import annotations


def cut(num_latents: int, num_parts: int, history_latents: int) -> list[int]:
    """Cut a clip such that all parts take equally long.

    Every part but the first decodes `history_latents` before its own once more, so the first one is longer by that.

    Args:
        num_latents: of the clip.
        num_parts: 2 or more.
        history_latents: latents before its own that a frame needs.

    Returns:
        Of each part, the index after its last latent.

    Raises:
        ValueError: the clip is too short for that.
    """
    least = history_latents + num_parts
    if num_latents < least:
        raise ValueError(
            f"{num_latents} latents are too few for {num_parts} parts: the model looks back over {history_latents}, "
            f"so it takes {least} or more"
        )
    decoded = num_latents + (num_parts - 1) * history_latents
    return [(part + 1) * decoded // num_parts - part * history_latents for part in range(num_parts)]
