"""A decoder that is cold again each so many latents: each of these is a clip of its own."""

import pytest
import torch
from torch import Tensor

from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.decoders.restarting import RestartingDecoder
from framehaul_pipeline.decoders.taehv import TaehvDecoder
from framehaul_pipeline.models.model import describe_model
from framehaul_pipeline.spec import Geometry
from tests.support.decoder_checks import check_state_bytes, decode, one_thread
from tests.support.taehv_models import save

CPU = torch.device("cpu")
EVERY = 4


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> TaehvDecoder:
    """Its first latent gives one frame, the others four."""
    path = tmp_path_factory.mktemp("cold") / "taew2_1.safetensors"
    save("taew2_1", path)
    loaded = load_decoder(describe_model(f"draft={path}"), CPU)
    assert isinstance(loaded, TaehvDecoder)
    return loaded


def some_latents(count: int) -> Tensor:
    return torch.randn(count, 16, 2, 3, generator=torch.Generator().manual_seed(0))


@one_thread()
@torch.inference_mode()
@pytest.mark.parametrize("wanted", [1, 3, 9])
def test_each_part_is_a_clip_of_its_own(decoder: TaehvDecoder, wanted: int) -> None:
    """Chunks end where a part does, however many latents are there."""
    cold = RestartingDecoder(decoder, EVERY, CPU)
    latents = some_latents(10)
    parts = [decode(decoder, part, part.shape[0]) for part in latents.split(EVERY)]
    state, index, frames = cold.open(Geometry(channels=16, height=2, width=3), None), 0, []
    while index < len(latents):
        count = cold.next_chunk(index, len(latents) - index, wanted, ended=True)
        part, state = cold.step(latents[index : index + count], state)
        index += count
        frames.append(part)
    assert cold.flush(state) is None
    assert len(torch.cat(frames)) == cold.spec.num_frames(10) == 13 + 13 + 5
    torch.testing.assert_close(torch.cat(frames), torch.cat(parts), rtol=0, atol=2e-5)


@one_thread()
@torch.inference_mode()
def test_it_starts_anywhere(decoder: TaehvDecoder) -> None:
    """At a part's start the frames are the clip's own at once, elsewhere when what they depend on has come again."""
    cold, latents = RestartingDecoder(decoder, EVERY, CPU), some_latents(12)
    whole = decode(cold, latents, 1)
    for start in range(1, 9):
        part = decode(cold, latents[start:], 1, first_latent=start)
        first = cold.spec.num_frames(start)
        settled = first if start % EVERY == 0 else cold.spec.num_frames(start + EVERY - 1)
        assert torch.equal(part[settled - first :], whole[settled:])
        assert len(part) == len(whole) - first


def test_state_bytes_are_those_held(decoder: TaehvDecoder) -> None:
    check_state_bytes(RestartingDecoder(decoder, EVERY, CPU), Geometry(channels=16, height=4, width=6), (1, 3, 2))
