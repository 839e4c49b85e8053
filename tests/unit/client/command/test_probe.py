import asyncio
import itertools
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest

from framehaul.address import Address
from framehaul_client import Access
from framehaul_client.command import cli, probe
from framehaul_client.command.arguments import parse
from framehaul_client.command.exits import Exit
from framehaul_client.command.probe_metrics import ProbeMetrics
from framehaul_client.command.probe_report import Run
from framehaul_client.errors import Refused, ServerUnavailable


@pytest.fixture
def busy_port() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said when nothing is begun."""
    assert cli.main(["probe", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--latents", "/none"), "client: /none: No such file or directory\n"),
        (("--num-latents", "22"), "client: num_latents=22: must be 1..21, what the file has\n"),
        (("--ca", "/none", "--tls"), "client: /none: can't be read: No such file or directory\n"),
        *(
            (
                ("--metrics", address),
                f"client: metrics={address}: others than this machine reach it: must be a loopback address, or come "
                "with --metrics-insecure\n",
            )
            for address in ("0.0.0.0:0", "[::]:0", "unixbox:0")
        ),
    ],
    ids=["no file", "too many latents", "no authority", "any address", "any address of IPv6", "a host by name"],
)
def test_what_would_fail_each_time_is_found_first(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 and one line, without a run."""
    assert refusal(capsys, *arguments) == message


def test_a_wrong_target_in_the_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Is an option's error too."""
    monkeypatch.setenv("FRAMEHAUL_TARGET", "gpu7")
    assert "target=gpu7: must be HOST:PORT" in refusal(capsys)


def test_a_token_stays_out_of_the_clear(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """For every target, before the first run."""
    monkeypatch.setenv("FRAMEHAUL_TOKEN", "secret")
    assert "gpu7:1: the token would cross the network" in refusal(capsys, "127.0.0.1:9", "gpu7:1")


def test_without_the_extra_metrics_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one sentence; nothing else needs it."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "framehaul_client.command.probe_metrics")
    assert refusal(capsys, "--metrics", "127.0.0.1:0") == (
        "client: --metrics needs prometheus-client: pip install 'framehaul[observe]'\n"
    )
    assert cli.main(["probe", "127.0.0.1:9", "--connect-timeout", "0.1"]) == 3


def test_an_address_that_is_taken(busy_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The metrics' own."""
    said = refusal(capsys, "--metrics", f"127.0.0.1:{busy_port}")
    assert said == f"client: metrics=127.0.0.1:{busy_port}: can't be listened on: Address already in use\n"


# When runs begin


class Clock:
    """Time that passes in runs and in sleep alone."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def time(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        assert delay_s >= 0
        self.now_s += delay_s


def starts(
    monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], durations: Sequence[float], errors: Sequence[Any] = ()
) -> tuple[list[tuple[str, float]], Exit]:
    """Where and when runs of these durations begin, and the exit code."""
    clock, seen = Clock(), list[tuple[str, float]]()
    lasting, failing = iter(durations), itertools.chain(errors, itertools.repeat(None))

    class Measurement:
        def __init__(self, options: Any, target: str, latents: Any) -> None:
            self.target = target

        async def run(self) -> Run:
            seen.append((self.target, round(clock.now_s - 100.0, 6)))
            if (duration := next(lasting, None)) is None:
                raise asyncio.CancelledError  # Ctrl-C
            clock.now_s += duration
            return Run(target=self.target, started_at=0.0, error=next(failing), total_s=duration, first_frame_s=0.0,
                       stream_s=0.0, connect_s=0.0)  # fmt: skip

    monkeypatch.setattr(probe, "_Measurement", Measurement)
    monkeypatch.setattr(
        probe,
        "asyncio",
        SimpleNamespace(get_running_loop=lambda: clock, sleep=clock.sleep, CancelledError=asyncio.CancelledError),
    )
    return seen, asyncio.run(probe.probe(parse(["probe", *arguments]), Access()))


@pytest.mark.parametrize(
    ("arguments", "durations", "expected"),
    [
        (["a:1"], [1.0, 1.0], [0.0]),
        (["a:1", "--count", "3"], [1.0] * 4, [0.0, 1.0, 2.0]),
        (["a:1", "--every", "30", "--count", "3"], [1.0, 20.0, 1.0, 1.0], [0.0, 30.0, 60.0]),
        (["a:1", "--every", "30", "--count", "5"], [1.0, 45.0, 1.0, 1.0, 1.0, 1.0], [0.0, 30.0, 75.0, 105.0, 135.0]),
        (["a:1", "--every", "30"], [1.0, 1.0], [0.0, 30.0, 60.0]),
    ],
    ids=["once", "count alone", "every", "a long run", "until Ctrl-C"],
)
def test_when_runs_begin(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], durations: list[float], expected: list[float]
) -> None:
    """The first at once; each a period after the one before; after a longer one at once; never two at a time."""
    assert starts(monkeypatch, arguments, durations)[0] == [("a:1", start_s) for start_s in expected]


def test_servers_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """One period for all of them."""
    seen, _ = starts(monkeypatch, ["a:1", "b:1", "--every", "10", "--count", "2"], [1.0] * 4)
    assert seen == [("a:1", 0.0), ("b:1", 1.0), ("a:1", 10.0), ("b:1", 11.0)]


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([None, None, None], Exit.OK),
        ([None, Refused("full"), None], Exit.REFUSED),
        ([Refused("full"), ServerUnavailable("gone"), None], Exit.UNREACHABLE),
    ],
    ids=["none", "one", "two"],
)
@pytest.mark.parametrize("end", [["--count", "3"], []], ids=["count", "Ctrl-C"])
def test_the_exit_code_says_whether_any_failed(
    monkeypatch: pytest.MonkeyPatch, errors: list[Any], code: Exit, end: list[str]
) -> None:
    """That of the last one that did, however the probe ended."""
    assert starts(monkeypatch, ["a:1", "--every", "1", *end], [0.1] * 3, errors)[1] is code


def test_ctrl_c_in_the_first_run_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was measured, so nothing is claimed."""
    with pytest.raises(asyncio.CancelledError):
        starts(monkeypatch, ["a:1"], [])


def test_every_way_to_fail_counts_from_zero() -> None:
    """Else the first failure is no increase to Prometheus; and no run, no success and no failure."""
    registry = ProbeMetrics(["a:1"]).registry
    for outcome in ("ok", "ServerUnavailable", "Refused", "DataLoss", "NotAuthenticated", "TimedOut"):
        assert registry.get_sample_value("framehaul_probe_runs_total", {"target": "a:1", "outcome": outcome}) == 0
    assert registry.get_sample_value("framehaul_probe_success", {"target": "a:1"}) is None


def test_promtool_finds_nothing_to_say() -> None:
    """Names, units, types and texts are as Prometheus wants them."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs Prometheus' promtool")
    metrics = ProbeMetrics(["a:1"])
    metrics.observe(Run(target="a:1", started_at=1.0, total_s=1.0, first_frame_s=0.5, stream_s=1.0, connect_s=0.1))
    found = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(metrics.registry), capture_output=True, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


def test_the_url_has_the_port_that_the_system_chose() -> None:
    """Of a host by name, too."""
    with ProbeMetrics(["a:1"]).served(Address.parse("localhost:0")) as url:
        assert re.fullmatch(r"http://localhost:[1-9][0-9]*/metrics", url)
        with urllib.request.urlopen(url, timeout=60) as response:
            assert b'framehaul_probe_runs_total{outcome="ok",target="a:1"} 0.0' in response.read()
