from framehaul_pipeline.fairness import Shares


def serve(shares: Shares, *tenants: str) -> str:
    """Serve the first in order, at a cost of 10."""
    tenant = min(tenants, key=shares.order)
    shares.serve(tenant)
    shares.charge(tenant, 10)
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
    serve(shares, "a")
    shares.charge("a", 1000)
    shares.close("a")
    assert shares.num_tenants == 1
    shares.open("a", 1.0)
    assert shares.num_tenants == 2
    assert [serve(shares, "a", "b") for _ in range(50)] == ["b"] * 50
