"""What every test gets: CUDA tests that can't be skipped by accident, a check that nothing is left behind, and recovery
times that are printed after the run.
"""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

# The same examples each time: no change is held up by what it has nothing to do with. `make nightly` tries others.
# However long one takes: the machine may stand still meanwhile.
_PATIENT = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("others", _PATIENT)
hypothesis.settings.register_profile("same", _PATIENT, derandomize=True)
hypothesis.settings.load_profile("same")

# What collecting the tests makes stays to the end, half a million objects: they are not looked through again and again.
gc.disable()

_MEASURED: dict[str, list[float]] = {}


def pytest_configure() -> None:
    """A job in a shell's background ignores SIGINT, and so would the commands here that are interrupted."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    cuda_items = [item for item in items if item.get_closest_marker("needs_cuda")]
    if not cuda_items or os.environ.get("FAIL_WITHOUT_CUDA") == "1":
        return
    import torch

    if not torch.cuda.is_available():
        for item in cuda_items:
            item.add_marker(pytest.mark.skip(reason="no CUDA device; FAIL_WITHOUT_CUDA=1 fails instead"))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()


def _memfds() -> list[str]:
    """Rings that this process still has open."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(fd)
        except FileNotFoundError:
            continue
        if "framehaul" in target and "memfd" in target:
            found.append(target)
    return found


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No child process and no ring outlives its test: no worker, no standby.

    Counted, since a test may replace the worker of a server that it shares with others.
    """
    children, memfds = psutil.Process().children(), _memfds()
    yield
    left = psutil.Process().children()
    assert len(left) <= len(children), f"child processes left: {set(left) - set(children)}"
    assert len(_memfds()) <= len(memfds), f"rings left: {_memfds()}"


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
