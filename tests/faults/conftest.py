"""Recovery times that the tests of faults measured, printed after the run."""

from collections.abc import Callable

import pytest

_MEASURED: dict[str, list[float]] = {}


@pytest.fixture
def recovered() -> Callable[[str, float], None]:
    """Note how long a recovery took: `recovered("worker killed -> next frame", 0.2)`."""

    def note(what: str, seconds: float) -> None:
        _MEASURED.setdefault(what, []).append(seconds)

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _MEASURED:
        return
    terminalreporter.section("recovery times")
    width = max(map(len, _MEASURED))
    for what, seconds in _MEASURED.items():
        worst = max(seconds)
        middle = sorted(seconds)[len(seconds) // 2]
        terminalreporter.write_line(f"{what:<{width}}  median {middle:6.3f} s  worst {worst:6.3f} s  of {len(seconds)}")
