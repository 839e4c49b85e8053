import hashlib
from types import MappingProxyType

import pytest

from framehaul_server.access.callers import as_everyone, by_token
from framehaul_server.core.tenants import EVERYONE, Caller, Tenant
from framehaul_server.errors import NotAuthenticated

FILM, ADS = Tenant(name="film"), Tenant(name="ads")
TENANTS = MappingProxyType(
    {
        hashlib.sha256(b"film-1").digest(): FILM,
        hashlib.sha256(b"film-2").digest(): FILM,
        hashlib.sha256(b"ads-1").digest(): ADS,
    }
)


@pytest.mark.parametrize(
    ("value", "tenant"),
    [("Bearer film-1", FILM), ("Bearer film-2", FILM), ("bearer ads-1", ADS), ("BEARER  ads-1 ", ADS)],
)
def test_a_known_token_names_its_tenant(value: str, tenant: Tenant) -> None:
    metadata = (("user-agent", "x"), ("authorization", value))
    assert by_token(lambda: TENANTS)(metadata).tenant is tenant


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer "),),
        (("authorization", "Bearer film-3"),),
        (("authorization", "Basic film-1"),),
        (("authorization", "film-1"),),
        (("authorization", b"Bearer film-1"),),
        (("authorization", "Bearer film-1"), ("authorization", "Bearer film-1")),
        (("x-authorization", "Bearer film-1"),),
    ],
)
def test_everything_else_is_nobody_and_hears_the_same(metadata: tuple[tuple[str, str | bytes], ...]) -> None:
    with pytest.raises(NotAuthenticated) as refusal:
        by_token(lambda: TENANTS)(metadata)
    assert str(refusal.value) == str(NotAuthenticated())


def test_a_token_that_was_taken_away_no_longer_counts() -> None:
    known = dict(TENANTS)
    identify = by_token(lambda: known)
    identify((("authorization", "Bearer ads-1"),))
    del known[hashlib.sha256(b"ads-1").digest()]
    with pytest.raises(NotAuthenticated):
        identify((("authorization", "Bearer ads-1"),))


def test_without_tokens_everybody_is_the_same_tenant() -> None:
    assert as_everyone((("authorization", "Bearer x"),)).tenant is EVERYONE


def test_a_caller_owns_what_its_tenant_opened_even_when_limits_changed() -> None:
    film, ads = Caller(tenant=FILM), Caller(tenant=ADS)
    assert Caller(tenant=Tenant(name="film", max_sessions=1)).owns(film)
    assert not ads.owns(film)
