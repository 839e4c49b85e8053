"""The choice of cuDNN's plans: kept for the next start, and the same for all workers of a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from framehaul_pipeline.decoders.engine.plans import PlanTable, cache_path
from framehaul_pipeline.link.heirloom import Heirloom


@pytest.fixture
def heirloom() -> Iterator[Heirloom]:
    made = Heirloom.create()
    yield made
    made.close()


def test_a_choice_is_kept_for_the_next_start(tmp_path: Path, heirloom: Heirloom) -> None:
    """And helps other sizes of the same convolution, those that won more often first."""
    path = tmp_path / "cache" / "plans.json"
    plans = PlanTable(path, heirloom)
    assert plans.get("[1]", " * [3]") == ([], False)
    for size, name in (("[1]", "slow"), ("[2]", "fast"), ("[3]", "fast")):
        plans.put(size, " * [3]", name)
    plans.put("[1]", " * [4]", "other")
    again = PlanTable(path, heirloom)
    assert again.get("[1]", " * [3]") == (["slow", "fast"], True)
    assert again.get("[9]", " * [3]") == (["fast", "slow"], False)
    assert again.get("[9]", " * [5]") == ([], False)
    assert [file.name for file in path.parent.iterdir()] == ["plans.json"]


@pytest.mark.parametrize("text", ["", "[]", "{", "\ud800"], ids=["empty", "list", "cut off", "no UTF-8"])
def test_a_damaged_file_counts_as_empty(tmp_path: Path, heirloom: Heirloom, text: str) -> None:
    """Plans are timed anew, and written over it."""
    path = tmp_path / "plans.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    plans = PlanTable(path, heirloom)
    assert plans.get("[1]", " * [3]") == ([], False)
    plans.put("[1]", " * [3]", "fast")
    assert PlanTable(path, heirloom).get("[1]", " * [3]") == (["fast"], True)


def test_servers_that_start_together_keep_each_others_choices(tmp_path: Path, heirloom: Heirloom) -> None:
    """Each has timed what the other hasn't; where both have, its own choice holds for itself."""
    path = tmp_path / "plans.json"
    one, other = PlanTable(path, heirloom), PlanTable(path, heirloom)
    one.put("[1]", " * [3]", "first")
    one.put("[2]", " * [3]", "first's")
    other.put("[1]", " * [3]", "second")
    assert one.get("[1]", " * [3]")[0][0] == "first"
    assert other.get("[2]", " * [3]") == (["second"], False)
    third = PlanTable(path, heirloom)
    assert third.get("[1]", " * [3]")[0][0] == "second"
    assert third.get("[2]", " * [3]")[0][0] == "first's"


def test_the_next_worker_takes_over_what_the_first_served_with(tmp_path: Path, heirloom: Heirloom) -> None:
    """In its order too, which decides between plans that won as often; whatever the cache has come to hold."""
    path = tmp_path / "plans.json"
    another_server = PlanTable(path, heirloom)
    first = PlanTable(path, heirloom)
    for size, name in (("[2]", "b"), ("[1]", "a")):
        first.put(size, " * [3]", name)
    first.settle()
    first.settle()
    for size in ("[4]", "[5]", "[9]"):
        another_server.put(size, " * [3]", "c")
    heir = PlanTable(path, heirloom)
    assert heir.get("[9]", " * [3]") == (["b", "a"], False)
    assert heir.get("[1]", " * [3]") == (["a", "b"], True)
    heir.settle()
    assert PlanTable(path, heirloom).get("[9]", " * [3]") == (["b", "a"], False)


def test_a_folder_that_cant_be_written_costs_the_next_start_its_time(
    tmp_path: Path, heirloom: Heirloom, caplog: pytest.LogCaptureFixture
) -> None:
    """The choice holds for this server's workers all the same."""
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "plans.json"
    plans = PlanTable(path, heirloom)
    plans.put("[1]", " * [3]", "fast")
    assert "not kept" in caplog.text
    plans.settle()
    assert PlanTable(path, heirloom).get("[1]", " * [3]") == (["fast"], True)


def test_a_worker_that_died_while_it_wrote_left_nothing(tmp_path: Path, heirloom: Heirloom) -> None:
    """The next one begins like the first, and may leave an empty table."""
    heirloom.write(b'{"[1] * [3]": "long name of a plan"}')
    whole = heirloom.read()
    for length in range(len(whole)):
        heirloom.write(whole[:length])
        heir = PlanTable(tmp_path / "plans.json", heirloom)
        assert heir.get("[1]", " * [3]") == ([], False)
        heir.settle()
        assert heirloom.read() == b"{}"
    heirloom.write(whole)
    assert PlanTable(tmp_path / "plans.json", heirloom).get("[1]", " * [3]") == (["long name of a plan"], True)


def test_the_cache_belongs_to_a_kind_of_device_and_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below XDG_CACHE_HOME, else ~/.cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_path("NVIDIA H100", 91900) == tmp_path / "framehaul" / "plans-NVIDIA-H100-cudnn-91900.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_path("a", 1).parent == tmp_path / ".cache" / "framehaul"
