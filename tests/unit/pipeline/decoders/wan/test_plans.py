"""The choice of cuDNN's plans: kept for the next start, and the same for all workers of a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from framehaul_pipeline.decoders.wan.plans import PlanJournal, PlanTable, cache_path


@pytest.fixture
def journal() -> Iterator[PlanJournal]:
    made = PlanJournal.create()
    yield made
    made.close()
    made.close()


def test_a_choice_is_kept_for_the_next_start(tmp_path: Path, journal: PlanJournal) -> None:
    """And helps other sizes of the same convolution, those that won more often first."""
    path = tmp_path / "cache" / "plans.json"
    plans = PlanTable(path, journal)
    assert plans.get("[1]", " * [3]") == ([], False)
    for size, name in (("[1]", "slow"), ("[2]", "fast"), ("[3]", "fast")):
        plans.put(size, " * [3]", name)
    plans.put("[1]", " * [4]", "other")
    again = PlanTable(path, journal)
    assert again.get("[1]", " * [3]") == (["slow", "fast"], True)
    assert again.get("[9]", " * [3]") == (["fast", "slow"], False)
    assert again.get("[9]", " * [5]") == ([], False)
    assert [file.name for file in path.parent.iterdir()] == ["plans.json"]


@pytest.mark.parametrize("text", ["", "[]", "{", "\ud800"], ids=["empty", "list", "cut off", "no UTF-8"])
def test_a_damaged_file_counts_as_empty(tmp_path: Path, journal: PlanJournal, text: str) -> None:
    """Plans are timed anew, and written over it."""
    path = tmp_path / "plans.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    plans = PlanTable(path, journal)
    assert plans.get("[1]", " * [3]") == ([], False)
    plans.put("[1]", " * [3]", "fast")
    assert PlanTable(path, journal).get("[1]", " * [3]") == (["fast"], True)


def test_servers_that_start_together_keep_each_others_choices(tmp_path: Path, journal: PlanJournal) -> None:
    """Each has timed what the other hasn't; where both have, its own choice holds for itself."""
    path = tmp_path / "plans.json"
    one, other = PlanTable(path, journal), PlanTable(path, journal)
    one.put("[1]", " * [3]", "first")
    one.put("[2]", " * [3]", "first's")
    other.put("[1]", " * [3]", "second")
    assert one.get("[1]", " * [3]")[0][0] == "first"
    assert other.get("[2]", " * [3]") == (["second"], False)
    third = PlanTable(path, journal)
    assert third.get("[1]", " * [3]")[0][0] == "second"
    assert third.get("[2]", " * [3]")[0][0] == "first's"


def test_the_next_worker_takes_over_what_the_first_served_with(tmp_path: Path, journal: PlanJournal) -> None:
    """In its order too, which decides between plans that won as often; whatever the cache has come to hold."""
    path = tmp_path / "plans.json"
    another_server = PlanTable(path, journal)
    first = PlanTable(path, journal)
    for size, name in (("[2]", "b"), ("[1]", "a")):
        first.put(size, " * [3]", name)
    first.settle()
    first.settle()
    for size in ("[4]", "[5]", "[9]"):
        another_server.put(size, " * [3]", "c")
    heir = PlanTable(path, journal)
    assert heir.get("[9]", " * [3]") == (["b", "a"], False)
    assert heir.get("[1]", " * [3]") == (["a", "b"], True)
    heir.settle()
    assert PlanTable(path, journal).get("[9]", " * [3]") == (["b", "a"], False)


def test_a_folder_that_cant_be_written_costs_the_next_start_its_time(
    tmp_path: Path, journal: PlanJournal, caplog: pytest.LogCaptureFixture
) -> None:
    """The choice holds for this server's workers all the same."""
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "plans.json"
    plans = PlanTable(path, journal)
    plans.put("[1]", " * [3]", "fast")
    assert "not kept" in caplog.text
    plans.settle()
    assert PlanTable(path, journal).get("[1]", " * [3]") == (["fast"], True)


def test_a_worker_that_died_while_it_wrote_left_nothing(tmp_path: Path, journal: PlanJournal) -> None:
    """The next one begins like the first."""
    journal.write({"a": "long name of a plan"})
    whole = Path(f"/proc/self/fd/{journal.fd}").read_bytes()
    for length in range(len(whole)):
        with open(journal.fd, "r+b", closefd=False) as file:
            file.truncate(length)
        assert journal.read() is None
        journal.write({"a": "long name of a plan"})
    assert journal.read() == {"a": "long name of a plan"}
    journal.write({})
    assert journal.read() == {}


def test_the_cache_belongs_to_a_kind_of_device_and_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below XDG_CACHE_HOME, else ~/.cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_path("NVIDIA H100", 91900) == tmp_path / "framehaul" / "plans-NVIDIA-H100-cudnn-91900.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_path("a", 1).parent == tmp_path / ".cache" / "framehaul"
