from framehaul_pipeline.scheduling.shares import Shares


def serve(shares: Shares, *tenants: str) -> str:
    """Serve the first in order, at a cost of 10."""
    tenant = min(tenants, key=shares.order)
    shares.charge(tenant, 10, 1)
    return tenant


def test_tenants_of_equal_weight_alternate() -> None:
    shares = Shares(credit=0)
    for tenant in ("a", "a", "a", "b"):
        shares.open(tenant, 1.0)
    assert [serve(shares, "a", "b") for _ in range(4)] == ["a", "b", "a", "b"]


def test_a_weight_is_a_share() -> None:
    shares = Shares(credit=0)
    shares.open("a", 1.0)
    shares.open("b", 3.0)
    served = [serve(shares, "a", "b") for _ in range(40)]
    assert served.count("b") == 30


def test_a_new_tenant_starts_level_and_owes_nothing_for_its_absence() -> None:
    """It neither waits for the others' past nor keeps them out until it has caught up with it."""
    shares = Shares(credit=0)
    shares.open("a", 1.0)
    for _ in range(100):
        serve(shares, "a")
    shares.open("b", 1.0)
    assert sorted(serve(shares, "a", "b") for _ in range(10)) == ["a"] * 5 + ["b"] * 5


def test_a_pause_is_made_up_for_as_far_as_the_credit_goes() -> None:
    for credit, expected in ((0, 1), (30, 4)):
        shares = Shares(credit=credit)
        shares.open("a", 1.0)
        shares.open("b", 1.0)
        for _ in range(100):
            serve(shares, "a")
        in_a_row = 0
        while serve(shares, "a", "b") == "b":
            in_a_row += 1
        assert in_a_row <= expected + 1
        assert in_a_row >= expected - 1


def test_leaving_and_coming_back_wipes_no_debt() -> None:
    shares = Shares(credit=0)
    shares.open("a", 1.0)
    shares.open("b", 1.0)
    shares.charge("a", 1000, 1)
    shares.close("a")
    assert shares.num_tenants == 1
    shares.open("a", 1.0)
    assert shares.num_tenants == 2
    assert [serve(shares, "a", "b") for _ in range(50)] == ["b"] * 50


def test_what_is_on_its_way_counts_at_the_latest_price() -> None:
    """The tenant's own, or anyone's while it has none; what failed has no price, and what came back counts no more."""
    shares = Shares(credit=0)
    shares.open("a", 1.0)
    shares.open("b", 2.0)
    shares.charge("a", 30, 3)
    assert shares.order("a") == 30
    shares.hold("a", 2)
    shares.hold("b", 2)
    assert (shares.order("a"), shares.order("b")) == (50, 10)
    shares.charge("b", 8, 2)
    assert shares.order("b") == 4 + 4
    shares.charge("b", 0, 2)
    assert shares.order("b") == 4 + 4
    shares.hold("b", -2)
    assert shares.order("b") == 4


def test_credit_is_what_may_be_made_up_for_whatever_the_weight() -> None:
    """A weight of 4 catches up four times as fast, so it may fall behind a quarter as far."""
    shares = Shares(credit=40)
    shares.open("a", 1.0)
    shares.open("b", 4.0)
    for _ in range(100):
        serve(shares, "a")
    served = [serve(shares, "a", "b") for _ in range(30)]
    # 40, and its share against the turn that "a" has just had.
    assert served.index("a") in (8, 9)
