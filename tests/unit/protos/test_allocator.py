import platform
import subprocess
import sys

import pytest

from framehaul.allocator import give_back, tune_allocator

OTHER_THREADS = """
import threading
from pathlib import Path

from framehaul.allocator import give_back, tune_allocator


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


tune_allocator(one_heap=True)
before = resident()
done = threading.Event()
blocks = [None] * 800


def work():
    for index in range(len(blocks)):
        blocks[index] = bytearray(64 << 10)
    blocks.clear()
    done.set()
    threading.Event().wait(60)


threading.Thread(target=work, daemon=True).start()
assert done.wait(60)
assert resident() - before > 40e6
give_back()
print(resident() - before)
"""


def test_glibc_takes_all_settings() -> None:
    """`mallopt` returns 1 for a setting that it takes."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("no glibc here")
    assert tune_allocator()


def test_what_other_threads_have_freed_is_given_back_too() -> None:
    """In a process of its own: the setting stays. Without it, the 50 MB of the thread's heap are kept."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("no glibc here")
    done = subprocess.run([sys.executable, "-c", OTHER_THREADS], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 10e6


def test_without_glibc_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other C libraries have other settings."""
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not tune_allocator()
    assert not give_back()


def test_freed_blocks_are_given_back() -> None:
    """Many small ones, so that they come from the heap."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("no glibc here")
    blocks = [bytearray(64 << 10) for _ in range(1000)]
    last = bytearray(64 << 10)
    del blocks
    assert give_back()
    assert last
