import pytest

from framehaul_client import errors
from framehaul_client.command.exits import MEANINGS, Exit, exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest("x"), 2),
        (errors.InvalidLatents("x"), 2),
        (errors.NotFound("x"), 2),
        (errors.Unsupported("x"), 2),
        (errors.InvalidOption("x"), 2),
        (errors.LatentsFileError("x"), 2),
        (errors.ServerUnavailable("x"), 3),
        (errors.Refused("x"), 4),
        (errors.ConnectionLost("x"), 5),
        (errors.StreamFailed("x"), 5),
        (errors.ProtocolError("x"), 5),
        (errors.DataLoss("x"), 5),
        (errors.OutputError("x"), 6),
        (errors.OutputClosed("x"), 141),
        (errors.FramehaulError("x"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_error_has_its_code(error: errors.FramehaulError, code: int) -> None:
    """Scripts rely on these numbers."""
    assert exit_code(error) == code


def test_every_error_class_is_in_the_table_above() -> None:
    """A new class must not fall through to 'a fault in this program'."""
    classes = {
        value for value in vars(errors).values() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert {kind for kind in classes if exit_code(kind("x")) is Exit.FAULT} == {errors.FramehaulError}


def test_every_code_is_explained() -> None:
    """--help lists them all."""
    assert set(MEANINGS) == set(Exit)
