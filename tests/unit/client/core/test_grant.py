from framehaul_client.core.grant import LatentCredit


def test_nothing_is_granted_at_first() -> None:
    """No latent leaves before the server has said so."""
    credit = LatentCredit()
    assert (credit.room, credit.take(5, 5), credit.next_latent) == (0, 0, 0)


def test_the_highest_grant_counts() -> None:
    """Unchanged (0) and older grants take nothing away."""
    credit = LatentCredit()
    assert credit.grant(4)
    assert not credit.grant(0)
    assert not credit.grant(3)
    assert not credit.grant(4)
    assert credit.room == 4


def test_taking_is_bounded_by_what_is_wanted_what_fits_and_what_is_granted() -> None:
    """Each of the three limits holds."""
    credit = LatentCredit()
    credit.grant(10)
    assert credit.take(2, 8) == 2
    assert credit.take(8, 3) == 3
    assert credit.take(8, 8) == 5
    assert (credit.room, credit.next_latent) == (0, 10)
