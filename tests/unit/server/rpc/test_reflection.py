import pytest

from framehaul.wire import SERVICE
from framehaul_server.rpc.reflection import MethodPool


@pytest.mark.parametrize("symbol", [SERVICE, f"{SERVICE}.Stream", "framehaul.v1.Open"])
def test_services_methods_and_messages_are_found(symbol: str) -> None:
    """Reflection clients ask for any of them."""
    assert MethodPool().FindFileContainingSymbol(symbol).name == "framehaul/v1/frames.proto"


@pytest.mark.parametrize("symbol", ["framehaul.v1.Nothing.Stream", "nothing"])
def test_what_does_not_exist_is_not_found(symbol: str) -> None:
    """As with the pool itself."""
    with pytest.raises(KeyError):
        MethodPool().FindFileContainingSymbol(symbol)


def test_the_rest_is_the_default_pool() -> None:
    """The reflection service uses more of it."""
    assert MethodPool().FindFileByName("framehaul/v1/frames.proto").package == "framehaul.v1"
