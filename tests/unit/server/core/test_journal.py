import msgspec
import pytest

from framehaul_pipeline.errors import DataLoss
from framehaul_pipeline.link.messages import Published
from framehaul_pipeline.spec import DecoderSpec
from framehaul_server.core.journal import Journal, Replay
from tests.support.fakes import SPEC, published

FINITE = msgspec.structs.replace(SPEC, receptive_latents=3)
PICTURE_FIRST = msgspec.structs.replace(SPEC, receptive_latents=3, first_frames=1)


def latent(index: int) -> memoryview:
    return memoryview(bytes([index]) * 10)


def chunk(first_latent: int, chunks: tuple[int, ...], first_frame: int, crc32c: tuple[int, ...]) -> Published:
    return msgspec.structs.replace(published(first_frame, 0, first_latent=first_latent, chunks=chunks), crc32c=crc32c)


def journal(spec: DecoderSpec = SPEC, *, num_latents: int, chunks: tuple[int, ...], max_bytes: int = 1000) -> Journal:
    """A journal of a session of which these chunks were published."""
    made = Journal(spec, 0, max_bytes=max_bytes)
    for index in range(num_latents):
        made.keep(latent(index))
    first = 0
    for size in chunks:
        made.note_published(chunk(first, (size,), spec.num_frames(first), tuple(range(4 * size))))
        first += size
    return made


def replay_of(made: Journal) -> Replay:
    replay = made.replay()
    assert replay is not None
    return replay


def test_a_decoder_that_remembers_all_is_given_all_in_the_same_chunks() -> None:
    replay = replay_of(journal(num_latents=9, chunks=(1, 2, 2)))
    assert replay == Replay(first_latent=0, chunks=(1, 2, 2), latents=tuple(latent(index) for index in range(9)))


@pytest.mark.parametrize("spec", [FINITE, PICTURE_FIRST], ids=["all latents alike", "a picture first"])
@pytest.mark.parametrize(
    ("chunks", "first"), [((1,), 0), ((1, 2), 0), ((1, 2, 2), 1), ((1, 2, 2, 2), 3), ((4, 4), 0), ((1,) * 5, 2)]
)
def test_a_finite_memory_needs_only_the_chunks_that_the_last_one_depends_on(
    spec: DecoderSpec, chunks: tuple[int, ...], first: int
) -> None:
    """Two latents before the last published chunk, which is decoded again whole; from a chunk's start on."""
    made = journal(spec, num_latents=9, chunks=chunks)
    replay = replay_of(made)
    assert replay.first_latent == first
    assert replay.first_latent <= max(0, sum(chunks[:-1]) - 2)
    assert first + sum(replay.chunks) == sum(chunks)
    assert replay.latents == tuple(latent(index) for index in range(first, 9))
    assert made.num_latents == 9 - first


def test_chunks_without_frames_are_in_the_plan_and_an_empty_last_one_is_not() -> None:
    made = Journal(SPEC, 0, max_bytes=1000)
    made.note_published(chunk(0, (1, 2, 2), 0, (1, 2, 3)))
    made.note_published(chunk(5, (0,), 3, (4,)))
    assert replay_of(made).chunks == (1, 2, 2)


def test_frames_that_come_out_differently_are_data_loss() -> None:
    made = journal(num_latents=3, chunks=(1, 2))
    made.replay()
    made.note_published(chunk(0, (1,), 0, tuple(range(4))))
    with pytest.raises(DataLoss, match=r"frames 4\.\.11: decoded again after a worker's death, they differ"):
        made.note_published(chunk(1, (2,), 4, (*range(7), 99)))


def test_the_first_frames_of_a_decode_that_starts_in_the_middle_are_not_compared() -> None:
    """Their latents lack a past; the last chunk's don't."""
    made = journal(FINITE, num_latents=9, chunks=(1, 2, 2, 2))
    assert replay_of(made).first_latent == 3
    made.note_published(chunk(3, (2,), 12, (0,) * 8))
    with pytest.raises(DataLoss):
        made.note_published(chunk(5, (2,), 20, (0,) * 8))


def test_a_session_that_started_in_the_middle_is_compared_from_its_own_start() -> None:
    made = Journal(FINITE, 5, max_bytes=1000)
    made.keep(latent(5))
    made.note_published(chunk(5, (1,), 20, (1, 2, 3, 4)))
    assert replay_of(made).first_latent == 5
    with pytest.raises(DataLoss):
        made.note_published(chunk(5, (1,), 20, (1, 2, 3, 5)))


def test_what_takes_too_much_room_is_not_kept_and_there_is_no_plan_then() -> None:
    made = journal(num_latents=9, chunks=(1,), max_bytes=80)
    made.note_fed(8)
    assert replay_of(made).latents
    made.note_fed(9)
    assert made.replay() is None
    assert made.num_latents == 0
    made.keep(latent(9))
    made.note_fed(10)
    made.note_published(chunk(1, (1,), 4, (1, 2, 3, 4)))
    assert made.num_latents == 0


def test_what_the_last_chunk_does_not_depend_on_takes_no_room() -> None:
    """However long the clip is."""
    made = Journal(PICTURE_FIRST, 0, max_bytes=50)
    for index in range(100):
        made.keep(latent(index))
    for index in range(100):
        made.note_fed(min(100, index + 2))
        made.note_published(chunk(index, (1,), PICTURE_FIRST.num_frames(index), (1,)))
    assert replay_of(made) == Replay(first_latent=97, chunks=(1, 1, 1), latents=(latent(97), latent(98), latent(99)))


def test_a_plan_must_fit_a_message() -> None:
    assert journal(num_latents=0, chunks=(1,) * 10_001).replay() is None
