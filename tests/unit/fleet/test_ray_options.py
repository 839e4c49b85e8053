"""The options of a fleet on Ray, without Ray."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from framehaul_fleet import ray_options
from framehaul_fleet.cli import main
from framehaul_fleet.ray_options import status_text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--gpus", "0"], "gpus=0: must be 1 or more"),
        (["--cpus", "2", "--min", "0"], "min=0: must be 1 or more"),
        (["--gpus", "2", "--max", "1"], "min=2, max=1: must be 0 <= min <= max"),
        (["--gpus", "2", "--cpus", "1"], "not allowed with argument"),
        (["--gpus", "1", "--name", "Big One"], "name='Big One': must be"),
        (["--gpus", "1", "--", "--listen", "0.0.0.0:1"], "unrecognized arguments: --listen"),
        (["--gpus", "1", "--", "--max-sessions", "many"], "argument --max-sessions: 'many': must be a whole number"),
        (["--gpus", "1", "--ray", "ray://head:10001"], "argument --ray: 'ray://head:10001': must be HOST:PORT"),
    ],
)
def test_a_wrong_option_is_named_before_anything_begins(
    options: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["up", "--ray", "127.0.0.1:1", *options])
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["locate"], ["up"], ["status"], ["drain"], ["down"]])
def test_help_lists_the_exit_codes(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    assert "\n  4    the cluster, or the fleet on it, doesn't do" in capsys.readouterr().out


def test_without_ray_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("framehaul_fleet.on_ray.cluster")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["status", "--ray", "127.0.0.1:1"]) == 4
    assert "ray is not installed here: pip install 'framehaul[server,fleet]'" in capsys.readouterr().err


def test_what_ray_prints_is_not_in_what_scripts_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints errors of the whole cluster, from a thread of its own, on standard output."""

    @contextmanager
    def joined(*_: object, **__: object) -> Iterator[None]:
        yield
        sys.stdout.write("(raylet) a node died\n")

    printing = SimpleNamespace(joined=joined, status=lambda _: {"servers": []})
    monkeypatch.setattr(ray_options, "import_cluster", lambda: printing)
    assert main(["status", "--ray", "auto", "--json"]) == 0
    captured = capsys.readouterr()
    assert (json.loads(captured.out), captured.err) == ({"servers": []}, "(raylet) a node died\n")


def test_status_is_a_table_with_a_line_for_each_server() -> None:
    found = {"name": "farm", "min": 1, "max": 4, "desired": 2, "drained": ["n1"], "failures": 3}
    ready = {"name": "server-1", "state": "ready", "target": "h:1", "sessions": 0, "places": 64, "as_told": False}
    text = status_text({**found, "servers": [ready, {"name": "server-2", "state": "pending", "as_told": True}]})
    head = "farm: 1 ready, 2 desired of 1..4, 1 with options of before, 3 failed starts in a row, drained nodes: n1"
    assert text.splitlines()[0] == head
    assert text.splitlines()[2].split() == ["server-1", "ready", "-", "h:1", "0", "-", "64", "-", "-"]
    assert text.splitlines()[3].split()[:2] == ["server-2", "pending"]
