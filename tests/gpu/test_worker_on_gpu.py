"""The supervisor with a real worker process on the GPU: frames as on the CPU, and a kill in mid-stream."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.errors import Unavailable
from framehaul_pipeline.models.model import BUILT_IN, TINY_SPEC, DecoderKind
from framehaul_pipeline.supervision.standby import needed_imports
from framehaul_pipeline.supervision.supervisor import Supervisor, WorkerState
from tests.support.supervised import Recorder, StateLog, decode, start_decoding

pytestmark = pytest.mark.needs_cuda

NUM_LATENTS = 8


@pytest.mark.asyncio
async def test_pictures_are_those_of_the_cpu() -> None:
    """Half precision moves a level by little, and no frame anywhere else."""
    pictures = []
    for device in ("cpu", "cuda"):
        supervisor = Supervisor(WorkerConfig(device=device, max_pixels=64 * 64))
        await supervisor.start()
        pictures.append(np.frombuffer(await decode(supervisor, NUM_LATENTS, seed=1), np.uint8).astype(int))
        await supervisor.aclose()
    difference = np.abs(pictures[0] - pictures[1])
    assert difference.max() <= 6
    assert difference.mean() < 0.5


@pytest.mark.asyncio
async def test_sessions_side_by_side_and_a_kill() -> None:
    """Eight sessions at once give what each gives alone; a killed worker is replaced and gives the same again."""
    states = StateLog()
    supervisor = Supervisor(WorkerConfig(device="cuda", max_pixels=64 * 64), on_state=states)
    await supervisor.start()
    alone = [await decode(supervisor, NUM_LATENTS, seed) for seed in range(8)]
    together = await asyncio.gather(*(decode(supervisor, NUM_LATENTS, seed) for seed in range(8)))
    for one, other in zip(alone, together, strict=True):
        first, second = np.frombuffer(one, np.uint8).astype(int), np.frombuffer(other, np.uint8).astype(int)
        assert np.abs(first - second).max() <= 2  # chunk sizes may differ, and with them the kernels

    events = Recorder()
    start_decoding(supervisor, events, NUM_LATENTS, seed=0)
    await events.received(1)
    os.kill(supervisor.worker_pid, signal.SIGKILL)
    assert isinstance(await events.failed(), Unavailable)
    await states.reached(WorkerState.READY, WorkerState.RESTARTING, WorkerState.READY)
    again = np.frombuffer(await decode(supervisor, NUM_LATENTS, seed=0), np.uint8).astype(int)
    assert np.abs(again - np.frombuffer(alone[0], np.uint8).astype(int)).max() <= 2
    await supervisor.aclose()


def device_files(pid: int) -> set[str]:
    """What of NVIDIA's a process has open or mapped; its libraries aside."""
    maps = Path(f"/proc/{pid}/maps").read_text().split()
    opened = (os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir())
    return {name for name in (*maps, *opened) if name.startswith("/dev/nvidia")}


@pytest.mark.asyncio
async def test_the_standby_touches_no_device_until_it_is_the_worker(capsys: pytest.CaptureFixture[str]) -> None:
    """So it costs no device memory; then it is ready sooner than a process that starts from nothing."""
    states = StateLog()
    supervisor = Supervisor(WorkerConfig(device="cuda", max_pixels=64 * 64), on_state=states)
    started_s = time.monotonic()
    await supervisor.start()
    cold_s = time.monotonic() - started_s
    standby_pid = supervisor.standby_pid
    assert standby_pid is not None
    while not await asyncio.to_thread(imports_done, standby_pid):
        pass
    assert device_files(supervisor.worker_pid)
    assert not device_files(standby_pid)
    killed_s = time.monotonic()
    os.kill(supervisor.worker_pid, signal.SIGKILL)
    await states.reached(WorkerState.READY, WorkerState.RESTARTING, WorkerState.READY)
    await decode(supervisor, NUM_LATENTS, seed=1)
    warm_s = time.monotonic() - killed_s
    with capsys.disabled():
        print(f"\nworker killed -> next frames: {warm_s:.2f} s; a start from nothing: {cold_s:.2f} s")  # noqa: T201
    assert supervisor.worker_pid == standby_pid
    assert warm_s < cold_s
    await supervisor.aclose()


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.kind)
def test_what_a_standby_imports_makes_no_context(kind: DecoderKind) -> None:
    """So it holds no device memory. Our own modules don't open the device either; diffusers asks for their number."""
    model = kind.model(TINY_SPEC)
    program = textwrap.dedent(
        """
        import contextlib, importlib, sys, torch
        for module in sys.argv[1:]:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
        sys.stdout.write(f"{torch.cuda.is_initialized()}\\n")
        sys.stdout.flush()
        sys.stdin.read()
        """
    )
    imports = needed_imports(WorkerConfig(device="cuda", models=(model,)))
    with subprocess.Popen(
        [sys.executable, "-c", program, *imports], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "False\n"
        assert not device_files(process.pid) or any(module.startswith("diffusers.") for module in imports)


def imports_done(pid: int) -> bool:
    """Whether a process used no processor for a while, after it had used some."""
    process = psutil.Process(pid)
    before = sum(process.cpu_times()[:2])
    time.sleep(0.5)
    return before > 0.5 and sum(process.cpu_times()[:2]) == before
