import pytest

from framehaul_pipeline.errors import Overloaded
from framehaul_server.admission.unread_calls import UnreadCalls
from framehaul_server.core.tenants import EVERYONE, Tenant

FILM = Tenant(name="film", max_sessions=2)


@pytest.mark.parametrize(("tenant", "most"), [(FILM, 10), (EVERYONE, 12)])
def test_a_tenant_has_as_many_as_sessions_and_a_few(tenant: Tenant, most: int) -> None:
    """Over that, a session's place is held for each, and no session may leave one more behind."""
    calls = UnreadCalls(4)
    for _ in range(most):
        calls.check(tenant)
        assert calls.begin(tenant)
    with pytest.raises(Overloaded, match=f"^{most} calls of tenant {tenant.name} have ended .* at most {most}") as told:
        calls.check(tenant)
    assert told.value.retry_after_s == 1.0
    assert not calls.begin(tenant)
    assert calls.num_calls == most + 1
    calls.end(tenant)
    calls.end(tenant)
    calls.check(tenant)
    assert calls.begin(tenant)
    for _ in range(most):
        calls.end(tenant)
    assert calls.num_calls == 0


def test_tenants_are_counted_apart() -> None:
    calls = UnreadCalls(4)
    for _ in range(10):
        calls.begin(FILM)
    calls.check(EVERYONE)
    assert calls.begin(EVERYONE)
    assert calls.num_calls == 11
