"""A plugin for tests of faults: any model's decoder, which does harm on command.

A latent whose first value is one of `Harm` says what goes wrong with its chunk, and where. Everything else is the
product's own.
"""

from enum import IntEnum
from pathlib import Path
from typing import Final

import msgspec

from framehaul_pipeline.models.model import DecoderKind, Model

HANGS: Final = "hangs"
"""What a thread is called that does."""


class Harm(IntEnum):
    """Values are exact in float16 and bfloat16, and far from any latent of a real clip."""

    RAISE = 2048
    OUT_OF_MEMORY = 2064
    HANG = 2080
    """The decoder never returns; the process still answers."""
    KILL_DECODING = 2304
    KILL_COPYING = 2320
    KILL_STAMPING = 2336
    KILL_PUBLISHED = 2352
    STOP_DECODING = 2560
    STOP_COPYING = 2576
    STOP_STAMPING = 2592
    STOP_PUBLISHED = 2608
    DIE_BESIDE = 2816
    """Killed before the chunk is copied, once the worker is at work for another session too. Where it keeps a session
    alone, that may never be: soon in any case."""


DECODER: Final = DecoderKind(kind="harmful", loader="tests.faults.harmful_decoder:load")


def harmful(model: Model, *, once: Path | None = None) -> Model:
    """The model with a decoder that does harm.

    Args:
        model: what is decoded when no harm is done.
        once: harm is done only by the worker that removes this file: the next one decodes the same latents.
    """
    config = {"model": msgspec.to_builtins(model), "once": once and str(once)}
    imports = (model.loader.partition(":")[0], *model.imports)
    return msgspec.structs.replace(
        DECODER.model(model.spec, config=config), imports=imports, cuda_imports=model.cuda_imports
    )
