"""Servers as processes, of a few lines each: what a front does when one doesn't come up, says nothing, or ends."""

import asyncio
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_server.front import members
from framehaul_server.front.members import Member
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio

STARTS = """
    import os, socket, sys, time
    front = socket.socket(fileno=int(sys.argv[1]))
    report = bytes.fromhex(os.environ["REPORT"])
"""
SERVES = STARTS + "    front.send(report)\n    front.recv(1)\n"
"""Until it is told to drain."""
REPORT = pb.ServerInfo(target="here:1", epoch=7)

Start = Callable[..., Any]


class Seen:
    """What a member tells its front."""

    def __init__(self, member: Member, reports: list[pb.ServerInfo], gone: list[str]) -> None:
        self.member, self.reports, self.gone = member, reports, gone
        self.running = asyncio.create_task(member.run())

    async def drain(self) -> int | None:
        self.member.drain()
        self.member.drain()
        await asyncio.wait_for(self.running, 60)
        return self.member.exit_code


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("REPORT", REPORT.SerializeToString().hex())
    monkeypatch.setattr(members, "_FIRST_DELAY_S", 0.01)

    def started(program: str, *, startup_s: float = 30.0) -> Seen:
        (tmp_path / "toy_member.py").write_text(textwrap.dedent(program))
        reports: list[pb.ServerInfo] = []
        gone: list[str] = []
        member = Member(
            "cpu", ["--x"], startup_s=startup_s, on_report=reports.append, on_gone=gone.append, module="toy_member"
        )
        return Seen(member, reports, gone)

    return started


async def test_reports_are_heard_and_the_end_of_the_socket_is_the_end(start: Start) -> None:
    seen = start(SERVES)
    await asyncio.wait_for(seen.member.settled.wait(), 60)
    assert (seen.reports, seen.gone) == ([REPORT], [])
    assert await seen.drain() == 0
    assert seen.gone == ["here:1"]


async def test_a_server_that_ends_is_started_again(start: Start) -> None:
    seen = start(STARTS + "    front.send(report)\n    sys.exit(4)\n")
    await eventually(lambda: len(seen.gone) >= 2, lambda: seen.reports)
    assert seen.member.exit_code == 4
    await seen.drain()


async def test_one_that_never_comes_up_is_killed_and_started_again(start: Start, caplog: Any) -> None:
    """It says nothing, and ignores being asked to end."""
    seen = start(STARTS + "    time.sleep(600)\n", startup_s=0.2)
    await asyncio.wait_for(seen.member.settled.wait(), 60)
    assert (seen.member.exit_code, seen.reports, seen.gone) == (-9, [], [])
    await eventually(lambda: caplog.text.count("server_silent device=cpu seconds=0.200") >= 2, lambda: caplog.text)
    await seen.drain()


async def test_one_that_falls_silent_is_killed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "GONE_S", 0.2)
    seen = start(STARTS + "    front.send(report)\n    time.sleep(600)\n")
    await eventually(lambda: bool(seen.gone), lambda: seen.reports)
    assert seen.member.exit_code == -9
    await seen.drain()


async def test_one_that_hangs_up_and_stays_is_killed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "_EXIT_S", 0.2)
    seen = start(STARTS + "    front.send(report)\n    front.close()\n    time.sleep(600)\n")
    await eventually(lambda: bool(seen.gone), lambda: seen.reports)
    assert seen.member.exit_code == -9
    await seen.drain()


async def test_what_is_no_report_ends_it(start: Start) -> None:
    seen = start(STARTS + "    front.send(b'\\xff\\xff')\n")
    await asyncio.wait_for(seen.member.settled.wait(), 60)
    assert seen.reports == []
    await seen.drain()


async def test_a_front_that_is_cancelled_leaves_no_process(start: Start) -> None:
    """The fixture that every test gets counts them."""
    seen = start(STARTS + "    front.send(report)\n    time.sleep(600)\n")
    await asyncio.wait_for(seen.member.settled.wait(), 60)
    seen.running.cancel()
    await asyncio.gather(seen.running, return_exceptions=True)
    assert seen.member.exit_code == -9
