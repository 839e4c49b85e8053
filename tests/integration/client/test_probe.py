"""`client probe` against the fake server, and a real one that dies and comes back."""

import asyncio
import json
import signal
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from framehaul_client import Access
from framehaul_client.command.arguments import parse
from framehaul_client.command.exits import Exit
from framehaul_client.command.probe import probe
from tests.integration.client.test_faults import corrupt_payload
from tests.support.client_command import make_file, start_client
from tests.support.fake_server import Abort, Behaviour
from tests.support.server_process import running_server

pytestmark = pytest.mark.asyncio


async def run(*arguments: object) -> Exit:
    """Run it in this process."""
    return await probe(parse(["probe", *map(str, arguments)]), Access())


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What it said of each run, as `--json` has it."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


async def test_a_run_is_what_a_user_does(
    target: str, behaviour: Behaviour, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file's notes go to the server, all frames are counted, and the times follow each other."""
    make_file(tmp_path / "a.safetensors", model="special", normalized="true")
    code = await run(target, "--latents", tmp_path / "a.safetensors", "--priority", 5, "--json")
    (said,) = lines(capsys)
    assert (code, said["outcome"], said["error"], said["stage"]) == (0, "ok", None, None)
    assert (said["target"], said["model"], said["num_frames"], said["queue_s"]) == (target, "special", 21, 0)
    assert said["frame_bytes"] == 21 * 24 * 32, "yuv420p"
    assert 0 < said["open_s"] <= said["first_frame_s"] <= said["stream_s"]
    assert said["connect_s"] + said["stream_s"] <= said["total_s"] + 1e-5
    assert said["frames_per_s"] == pytest.approx(21 / said["stream_s"], rel=0.01)
    opened = behaviour.opens[0]
    assert (opened.model, opened.normalized, opened.priority, opened.num_latents) == ("special", True, 5, 6)


async def test_fewer_latents_and_a_summary(
    target: str, behaviour: Behaviour, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first ones of the file, in each of the runs; then what they had in common."""
    latents = make_file(tmp_path / "a.safetensors", frames="18")
    code = await run(target, "--latents", tmp_path / "a.safetensors", "--num-latents", 2, "--model", "m", "--count", 3)
    assert code == 0
    assert [(opened.model, opened.num_latents) for opened in behaviour.opens] == [("m", 2)] * 3
    assert [latent.tobytes() for latent in behaviour.latents] == [latent.tobytes() for latent in latents[:2]]
    *runs, summary = capsys.readouterr().out.split("\n", 3)
    assert all(f"Z {target}: first frame after " in text and " s; 5 frames in " in text for text in runs)
    assert summary.startswith(f"{target}: 3 runs, 0 failed\n  first frame  p50 ")


def abort(code: grpc.StatusCode, details: str) -> Abort:
    return (code, details, ())


BUSY = abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "64 sessions")
ILL, GONE = abort(grpc.StatusCode.INTERNAL, "error 42"), abort(grpc.StatusCode.UNAVAILABLE, "a moment")


@pytest.mark.parametrize(
    ("changes", "stage", "outcome", "error", "code"),
    [
        ({"refuse_open": BUSY}, "open", "Refused", "64 sessions", Exit.REFUSED),
        ({"queue": [[2, BUSY]]}, "queue", "Refused", "64 sessions", Exit.REFUSED),
        ({"fail_after_latents": (2, ILL)}, "frames", "StreamFailed", "INTERNAL: error 42", Exit.STREAM),
        ({"fail_after_latents": (2, GONE)}, "frames", "ConnectionLost", "a moment", Exit.STREAM),
        ({"edit": corrupt_payload}, "frames", "DataLoss", "crc32c", Exit.STREAM),
    ],
    ids=["refused", "refused in the queue", "broken", "lost", "damaged"],
)
async def test_a_failure_is_measured(
    target: str, behaviour: Behaviour, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any], stage: str, outcome: str, error: str, code: Exit,
) -> None:  # fmt: skip
    """What, why and at what, at once: a lost session is not taken up again. The next run is tried all the same."""
    make_file(tmp_path / "a.safetensors")
    for name, value in changes.items():
        setattr(behaviour, name, value)
    behaviour.let_in.set()
    assert await run(target, "--latents", tmp_path / "a.safetensors", "--json", "--count", 2) == code
    first, second = lines(capsys)
    assert (first["stage"], first["outcome"]) == (stage, outcome)
    assert error in first["error"]
    assert first["connect_s"] <= first["total_s"]
    assert second["outcome"] == ("ok" if stage == "queue" else outcome)


@pytest.mark.parametrize("changes", [{"queue": [[2]]}, {"stop_after_frames": 5}], ids=["queue", "frames"])
async def test_a_run_that_is_not_over_in_time_has_failed(
    target: str, behaviour: Behaviour, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    """Wherever it waits."""
    make_file(tmp_path / "a.safetensors")
    for name, value in changes.items():
        setattr(behaviour, name, value)
    assert await run(target, "--latents", tmp_path / "a.safetensors", "--json", "--timeout", 0.7) == Exit.STREAM
    (said,) = lines(capsys)
    assert (said["outcome"], said["error"]) == ("TimedOut", "not over within 0.7 s")


async def test_servers_are_told_apart(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that isn't there doesn't keep the next from being measured."""
    make_file(tmp_path / "a.safetensors")
    arguments = ("127.0.0.1:9", target, "--latents", tmp_path / "a.safetensors", "--connect-timeout", 2, "--json")
    assert await run(*arguments) == Exit.UNREACHABLE
    absent, present = lines(capsys)
    assert (absent["target"], absent["stage"], absent["outcome"]) == ("127.0.0.1:9", "connect", "ServerUnavailable")
    assert absent["error"].startswith("no server answered within 2 s (")
    assert (present["target"], present["outcome"]) == (target, "ok")


async def scrape(url: str) -> dict[tuple[str, str], float]:
    """Values by name and by outcome or bucket, as a Prometheus reads them."""
    with await asyncio.to_thread(urllib.request.urlopen, url, timeout=60) as response:
        text = response.read().decode()
    return {
        (sample.name, sample.labels.get("outcome", sample.labels.get("le", ""))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_a_server_that_dies_and_comes_back(tmp_path: Path) -> None:
    """Runs fail while it is away and succeed afterwards; metrics count what was told; Ctrl-C sums up."""

    async def told_until(*, good: bool) -> None:
        assert process.stdout is not None
        while not said or (said[-1]["outcome"] == "ok") is not good:
            said.append(json.loads(await process.stdout.readline()))

    said: list[dict[str, Any]] = []
    with running_server(tmp_path / "log") as server:
        process = await start_client(
            *("probe", server.target, "--num-latents", 1, "--every", 1, "--connect-timeout", 2, "--json"),
            *("--metrics", "127.0.0.1:0"),
        )
        assert process.stderr is not None
        begin, _, url = (await process.stderr.readline()).decode().strip().rpartition(" ")
        assert begin == "metrics at"
        await told_until(good=True)
        server.signal(signal.SIGKILL)
        await told_until(good=False)
    away = await scrape(url)
    assert away["framehaul_probe_success", ""] == away["framehaul_probe_frames_per_second", ""] == 0
    with running_server(tmp_path / "log", "--listen", server.target):
        await told_until(good=True)
        metrics = await scrape(url)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    said += map(json.loads, out.splitlines())  # told meanwhile
    num_failed = sum(run["outcome"] != "ok" for run in said)
    assert process.returncode in (Exit.UNREACHABLE, Exit.STREAM)
    assert err.decode().startswith(f"{server.target}: {len(said)} runs, {num_failed} failed (")
    assert "  first frame  p50" in err.decode()

    assert metrics["framehaul_probe_success", ""] == 1
    assert metrics["framehaul_probe_frames_per_second", ""] > 0
    assert metrics["framehaul_probe_last_success_timestamp_seconds", ""] > 1e9
    counts = {outcome: value for (name, outcome), value in metrics.items() if name == "framehaul_probe_runs_total"}
    before = said[: int(sum(counts.values()))]
    assert {outcome: value for outcome, value in counts.items() if value} == Counter(run["outcome"] for run in before)
    for name in ("connect", "queue", "first_frame", "duration"):
        assert metrics[f"framehaul_probe_{name}_seconds_bucket", "+Inf"] == counts["ok"]
    first_frames_s = [run["first_frame_s"] for run in before if run["outcome"] == "ok"]
    assert metrics["framehaul_probe_first_frame_seconds_sum", ""] == pytest.approx(sum(first_frames_s), abs=1e-4)
