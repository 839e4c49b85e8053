"""Traces of servers that have none, refuse, or end."""

from pathlib import Path

import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_client import FrameClient, Unsupported
from tests.integration.client.test_command import names_in
from tests.support.client_command import make_file, run_client
from tests.support.fake_server import Behaviour
from tests.support.traces import numbers, read

pytestmark = pytest.mark.asyncio


async def test_a_server_older_than_traces_is_called_so(target: str, tmp_path: Path) -> None:
    outcome = await run_client("trace", "--out", tmp_path / "t.pftrace", "--target", target, "--seconds", "1")
    assert outcome.err == f"client: {target}: this server is older than traces, and has none\n"
    assert outcome.code == 2
    assert names_in(tmp_path) == []
    async with FrameClient(target) as client:
        with pytest.raises(Unsupported):
            await anext(client.trace(1.0))


async def test_a_run_at_a_server_without_traces_has_its_own_side(target: str, tmp_path: Path) -> None:
    """It says what is missing, and works."""
    make_file(tmp_path / "a.safetensors")
    path = tmp_path / "t.pftrace"
    outcome = await run_client(
        "stream", tmp_path / "a.safetensors", "--out", tmp_path / "v.mkv", "--target", target, "--trace", path
    )
    assert outcome.code == 0, outcome.err
    assert "the trace lacks the server's side: " in outcome.err
    found = read(path)
    assert {number for each in found.of("received") for number in numbers(each)} == {*range(21)}
    assert [each.name for each in found.of("encode")][-1] == "finish"
    assert found.of("client acknowledged")
    assert "older than traces" in found.about["server's side left out"]


async def test_a_trace_that_cannot_be_written_is_found_first(target: str, behaviour: Behaviour, tmp_path: Path) -> None:
    """Before the server is asked for anything."""
    make_file(tmp_path / "a.safetensors")
    for given in (["--out", tmp_path / "v.mkv", "--trace", tmp_path], ["--out", tmp_path / "v.mkv", "--trace", "-"]):
        outcome = await run_client("stream", tmp_path / "a.safetensors", "--target", target, *given)
        assert outcome.code in (2, 6)
        assert "Traceback" not in outcome.err
    assert not behaviour.opens
    outcome = await run_client("trace", "--target", target, "--out", "-")
    assert outcome.err == "client: a trace can't be written to stdout: name a file, t.pftrace say\n"
    assert names_in(tmp_path) == ["a.safetensors"]


async def test_a_run_that_fails_keeps_its_trace(target: str, behaviour: Behaviour, tmp_path: Path) -> None:
    """What came before the failure is what one wants to see."""
    behaviour.edit = lambda number, response: pb.StreamResponse(done=pb.Done(num_frames=1)) if number == 3 else response
    make_file(tmp_path / "a.safetensors")
    path = tmp_path / "t.pftrace"
    given = ("--out", tmp_path / "v.mkv", "--target", target, "--trace", path, "--retry-for", "0")
    outcome = await run_client("stream", tmp_path / "a.safetensors", *given)
    assert outcome.code == 5, outcome.err
    assert f"the trace so far is kept in {path}" in outcome.err
    assert read(path).of("received")
