"""The host's memory: what there is for a worker, and when it gives back what its allocator keeps."""

import mmap
from pathlib import Path
from unittest.mock import Mock

import pytest

from framehaul_pipeline.device import host_memory
from framehaul_pipeline.device.host_memory import SLACK_BYTES, KeptMemory, available_bytes, own_bytes, total_bytes

MIB = 1 << 20


@pytest.mark.parametrize(
    ("limit", "used", "expected_mib", "total_mib"),
    [
        (None, None, 1000, 3000),
        ("max", "0", 1000, 3000),
        (str(600 * MIB), str(200 * MIB), 400, 600),
        (str(MIB), str(2 * MIB), 0, 1),
        (str(4000 * MIB), "0", 1000, 3000),
    ],
    ids=["no container", "no limit", "limited", "over its limit", "allowed more than there is"],
)
def test_available_is_what_host_and_container_have_left(
    tmp_path: Path, limit: str | None, used: str | None, expected_mib: int, total_mib: int
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal:       {3000 << 10} kB\nMemAvailable:   {1000 << 10} kB\n")
    if limit is not None and used is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
    assert available_bytes(meminfo, tmp_path) == expected_mib * MIB
    assert total_bytes(meminfo, tmp_path) == total_mib * MIB


def test_memory_is_given_back_only_when_sessions_do_not_account_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At rest the process holds what it started with; a session may take twice what it is counted with."""
    held, trimmed = [100 * MIB], Mock()
    monkeypatch.setattr(host_memory, "own_bytes", lambda: held[0])
    monkeypatch.setattr(host_memory, "trim", trimmed)
    kept = KeptMemory()
    trimmed.assert_called_once()
    held[0] += SLACK_BYTES
    kept.hold(0)
    held[0] += 20 * MIB
    kept.hold(10 * MIB)
    trimmed.assert_called_once()
    kept.hold(9 * MIB)
    assert trimmed.call_count == 2


@pytest.mark.parametrize(
    ("kind", "expected_mib"), [(mmap.MAP_PRIVATE, 32), (mmap.MAP_SHARED, 0)], ids=["own", "shared"]
)
def test_a_process_holds_its_own_memory_and_not_shared_one(kind: int, expected_mib: int) -> None:
    before = own_bytes()
    with mmap.mmap(-1, 32 * MIB, flags=kind | mmap.MAP_ANONYMOUS) as mapped:
        mapped[:: mmap.PAGESIZE] = bytes(len(mapped) // mmap.PAGESIZE)
        held = own_bytes() - before
    assert abs(held - expected_mib * MIB) < 8 * MIB
