from framehaul_client.core.grant import LatentGrant


def test_nothing_is_granted_at_first() -> None:
    """No latent leaves before the server has said so."""
    grant = LatentGrant()
    assert (grant.room, grant.take(5, 5), grant.next_latent) == (0, 0, 0)


def test_the_highest_grant_counts() -> None:
    """Unchanged (0) and older grants take nothing away."""
    grant = LatentGrant()
    assert grant.extend(4)
    assert not grant.extend(0)
    assert not grant.extend(3)
    assert not grant.extend(4)
    assert grant.room == 4


def test_taking_is_bounded_by_what_is_wanted_what_fits_and_what_is_granted() -> None:
    """Each of the three limits holds."""
    grant = LatentGrant()
    grant.extend(10)
    assert grant.take(2, 8) == 2
    assert grant.take(8, 3) == 3
    assert grant.take(8, 8) == 5
    assert (grant.room, grant.next_latent) == (0, 10)
