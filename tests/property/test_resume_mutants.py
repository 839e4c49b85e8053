"""That the search in `test_resume` can fail: each of these breaks the resume rule in one place, and each is found.

The choices are the same each time, so what is found here is found always; nothing is shrunk, since finding is enough.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from framehaul_client.core.opening import Opened
from framehaul_pipeline.link.messages import Published
from framehaul_server.core.journal import Journal, Replay
from framehaul_server.core.packing import Outgoing
from framehaul_server.core.retention import Retention
from framehaul_server.session.decoding import Decoding
from tests.property.test_resume import Resume, ResumeWithEndlessMemory
from tests.support import resume_model

SEARCH = settings(
    stateful_step_count=40,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
Mutant = Callable[[pytest.MonkeyPatch], None]


def search(machine: type[Resume], max_examples: int = 500) -> None:
    seeded = seed(0)(type("Seeded", (machine,), {}))
    run_state_machine_as_test(seeded, settings=settings(SEARCH, max_examples=max_examples))


def rewinds_one_message_too_few(patch: pytest.MonkeyPatch) -> None:
    rewind = Retention.rewind

    def mutant(self: Retention, next_frame: int) -> list[Outgoing]:
        return rewind(self, next_frame)[1:]

    patch.setattr(Retention, "rewind", mutant)


def rewinds_one_frame_too_far(patch: pytest.MonkeyPatch) -> None:
    rewind = Retention.rewind

    def mutant(self: Retention, next_frame: int) -> list[Outgoing]:
        return rewind(self, max(self._floor, next_frame - 1))

    patch.setattr(Retention, "rewind", mutant)


def lets_go_of_one_frame_too_many(patch: pytest.MonkeyPatch) -> None:
    acknowledge = Retention.acknowledge

    def mutant(self: Retention, next_frame: int) -> None:
        while self._kept and self._kept[0].num_frames and self._kept[0].first_frame <= next_frame:
            self._kept.popleft()
        acknowledge(self, next_frame)

    patch.setattr(Retention, "acknowledge", mutant)


def forgets_acknowledgements(patch: pytest.MonkeyPatch) -> None:
    """Then what was acknowledged is kept for ever, and the session never ends."""
    patch.setattr(Retention, "acknowledge", lambda self, next_frame: None)


def forgets_that_done_was_lost(patch: pytest.MonkeyPatch) -> None:
    rewind = Retention.rewind

    def mutant(self: Retention, next_frame: int) -> list[Outgoing]:
        return [outgoing for outgoing in rewind(self, next_frame) if not outgoing.last]

    patch.setattr(Retention, "rewind", mutant)


def skips_a_chunk_of_the_journal(patch: pytest.MonkeyPatch) -> None:
    replay = Journal.replay

    def mutant(self: Journal) -> Replay | None:
        found = replay(self)
        if found is None or not found.chunks:
            return found
        skipped = found.chunks[0]
        return replace(
            found, first_latent=found.first_latent + skipped, chunks=found.chunks[1:], latents=found.latents[skipped:]
        )

    patch.setattr(Journal, "replay", mutant)


def keeps_one_chunk_too_few(patch: pytest.MonkeyPatch) -> None:
    trim = Journal._trim

    def mutant(self: Journal) -> None:
        trim(self)
        if self._spec.history_latents is not None and len(self._published) > 1:
            oldest = self._published.popleft()
            for _ in range(sum(oldest.chunks)):
                self._latents.popleft()
            self._first_latent = oldest.next_latent

    patch.setattr(Journal, "_trim", mutant)


def publishes_again_what_was_decoded_again(patch: pytest.MonkeyPatch) -> None:
    on_published = Decoding.on_published

    def mutant(self: Decoding, published: Published, frames: memoryview) -> None:
        self._next_frame = min(self._next_frame, published.first_frame)
        on_published(self, published, frames)

    patch.setattr(Decoding, "on_published", mutant)


def listens_to_old_connections(patch: pytest.MonkeyPatch) -> None:
    """No fence: what an old connection had under way counts when it comes at last."""
    take, resume = resume_model.Server.take, resume_model.Server._resume

    def resume_without_fence(self: resume_model.Server, link: resume_model.Link, next_frame: int) -> None:
        self.link = None
        resume(self, link, next_frame)

    def take_from_any(self: resume_model.Server, link: resume_model.Link, kind: str, number: int) -> None:
        if kind in ("latent", "end", "ack") and self.session is not None and link is not self.link:
            present, self.link = self.link, link
            take(self, link, kind, number)
            self.link = present if self.link is link else self.link
        else:
            take(self, link, kind, number)

    patch.setattr(resume_model.Server, "_resume", resume_without_fence)
    patch.setattr(resume_model.Server, "take", take_from_any)


def client_forgets_one_latent_too_many(patch: pytest.MonkeyPatch) -> None:
    needed = Opened.first_latent_needed
    patch.setattr(Opened, "first_latent_needed", lambda self, next_frame: needed(self, next_frame) + 1)


MUTANTS: list[Mutant] = [
    rewinds_one_message_too_few,
    rewinds_one_frame_too_far,
    lets_go_of_one_frame_too_many,
    forgets_acknowledgements,
    forgets_that_done_was_lost,
    skips_a_chunk_of_the_journal,
    keeps_one_chunk_too_few,
    publishes_again_what_was_decoded_again,
    listens_to_old_connections,
    client_forgets_one_latent_too_many,
]


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_mutant_is_found(mutate: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        search(Resume)


@pytest.mark.parametrize("machine", [Resume, ResumeWithEndlessMemory])
def test_the_rule_itself_is_not(machine: type[Resume]) -> None:
    """In the same search."""
    search(machine, max_examples=20)
