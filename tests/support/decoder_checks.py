"""What every decoder must hold, whatever its kind: called by each decoder's own tests."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor

from framehaul_pipeline.decoders.base import Decoder, Draining, State
from framehaul_pipeline.device.devices import CpuDevice
from framehaul_pipeline.spec import Geometry
from framehaul_pipeline.worker.parking import Parking, Place, forget
from tests.support.fake_decoder import fake_opening


@contextmanager
def one_thread() -> Iterator[None]:
    """Layers as small as tests have run many times faster without others to wait for, on a busy machine above all."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def decode(
    decoder: Decoder,
    latents: Tensor,
    chunks: int | Sequence[int],
    *,
    num_latents: int | None = None,
    first_latent: int = 0,
) -> Tensor:
    """Frames `[F, 3, H, W]` of latents `[T, C, h, w]`, in chunks of this size or of these sizes."""
    _, channels, height, width = latents.shape
    geometry = Geometry(channels=channels, height=height, width=width)
    state, frames = decoder.open(geometry, num_latents, first_latent=first_latent), []
    for part in latents.split(chunks):
        decoded, state = decoder.step(part, state)
        # The next step may write over them.
        frames.append(decoded.clone())
    blanks, size = decoder.spec.num_blanks, chunks if isinstance(chunks, int) else 1
    for first in range(0, blanks, size):
        assert isinstance(decoder, Draining)
        decoded, state = decoder.drain(min(size, blanks - first), state)
        frames.append(decoded)
    rest = decoder.flush(state)
    return torch.cat(frames if rest is None else [*frames, rest])


def tensor_bytes(state: State) -> int:
    """Memory that a state holds alive: storages, each once, so that a slice counts with what it is a slice of."""
    return sum({each.data_ptr(): each.nbytes() for tensor in state for each in [tensor.untyped_storage()]}.values())


@torch.inference_mode()
def check_state_bytes(decoder: Decoder, geometry: Geometry, chunks: tuple[int, ...]) -> None:
    """`state_bytes` is what a state holds, or at most 10 % more, at open and after each of these chunks.

    Never less: host pages for parking are counted by it.
    """
    told = decoder.state_bytes(geometry)
    state = decoder.open(geometry, None)
    held = [tensor_bytes(state)]
    for num_latents in chunks:
        shape = (num_latents, geometry.channels, geometry.height, geometry.width)
        _, state = decoder.step(torch.zeros(shape, dtype=decoder.dtype), state)
        held.append(tensor_bytes(state))
    assert max(held) <= told <= 1.1 * min(held), f"state_bytes={told}: the state holds {held}"


@torch.inference_mode()
def check_turns(decoder: Decoder, clips: Sequence[Tensor]) -> None:
    """Sessions of clips of one length that take turns, and are parked between chunks, are bit-equal to each alone.

    Chunks are of one latent, or of one blank behind the last.
    """
    geometry = Geometry(channels=clips[0].shape[1], height=clips[0].shape[2], width=clips[0].shape[3])
    parking = Parking(CpuDevice(), CpuDevice().stream())
    pages = range(1 + decoder.state_bytes(geometry) // 4096)
    parking.pin(len(pages), 4096)
    places = [Place(decoder, fake_opening(), decoder.open(geometry, None)) for _ in clips]
    frames: list[list[Tensor]] = [[] for _ in clips]
    for parts in zip(*([*latents.split(1), *[None] * decoder.spec.num_blanks] for latents in clips), strict=True):
        for part, place, decoded in zip(parts, places, frames, strict=True):
            parking.park(place, pages)
            forget(place)
            parking.restore(place, pages)
            made, place.state = advance(decoder, part, place.state)
            decoded.append(made)
    for latents, decoded in zip(clips, frames, strict=True):
        assert torch.equal(torch.cat(decoded), decode(decoder, latents, 1))


def advance(decoder: Decoder, latents: Tensor | None, state: State) -> tuple[Tensor, State]:
    """By some latents, or by a blank."""
    if latents is not None:
        return decoder.step(latents, state)
    assert isinstance(decoder, Draining)
    return decoder.drain(1, state)


@one_thread()
@torch.inference_mode()
def check_starts_anywhere(decoder: Decoder, latents: Tensor, chunks: tuple[int, ...]) -> None:
    """A decode that starts with any but the first of `chunks` gives the whole decode's frames, bit for bit.

    From `history_latents` after its start on; those before differ, so that equality says something. Starts too near the
    end to show it are left out.
    """
    spec, starts = decoder.spec, list(accumulate(chunks, initial=0))
    history = spec.history_latents
    assert history is not None
    assert starts[-1] == len(latents)

    def decode_from(first_chunk: int) -> Tensor:
        first = starts[first_chunk]
        left = len(latents) - first
        return decode(decoder, latents[first:], chunks[first_chunk:], num_latents=left, first_latent=first)

    whole = decode_from(0)
    assert len(whole) == spec.num_frames(len(latents))
    tried = [index for index, start in enumerate(starts) if 0 < start < len(latents) - history]
    assert tried
    for first_chunk in tried:
        first_frame = spec.num_frames(starts[first_chunk])
        settled = spec.num_frames(starts[first_chunk] + history)
        part = decode_from(first_chunk)
        assert len(part) == len(whole) - first_frame
        assert torch.equal(part[settled - first_frame :], whole[settled:]), f"from latent {starts[first_chunk]}"
        if history:
            assert not torch.equal(part[:1], whole[first_frame : first_frame + 1])
