import msgspec
import pytest

from framehaul_server.core.grant import LatentGrant, latent_budget
from tests.support.fakes import SPEC


@pytest.mark.parametrize(
    ("latent_bytes", "budget_bytes", "budget"),
    [(100, 2000, 20), (100, 300, 8), (1, 1 << 20, 256)],
)
def test_budget_is_set_by_bytes_within_two_chunks_and_256(latent_bytes: int, budget_bytes: int, budget: int) -> None:
    assert latent_budget(SPEC, latent_bytes, budget_bytes, 4) == budget


def test_budget_leaves_room_for_the_lookahead() -> None:
    assert latent_budget(msgspec.structs.replace(SPEC, lookahead_latents=3), 100, 0, 4) == 11


def test_the_grant_follows_what_the_worker_took_over_and_never_falls() -> None:
    grant = LatentGrant(8)
    assert grant.until == 8
    grant.fed(3)
    grant.fed(2)
    assert grant.until == 11


def test_each_grant_is_announced_once() -> None:
    grant = LatentGrant(8)
    assert grant.announce() == 8
    assert grant.announce() == 0
    grant.fed(1)
    assert grant.announce() == 9


def test_telling_is_overdue_from_half_of_the_room_on() -> None:
    grant = LatentGrant(8)
    grant.announce()
    grant.fed(3)
    assert not grant.overdue
    grant.fed(4)
    assert grant.overdue
