"""What a standby has imported before it is needed, and when it is trusted."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import msgspec
import pytest

from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.models.model import BUILT_IN, TINY, TINY_SPEC
from framehaul_pipeline.scheduling.restarts import RestartBudget
from framehaul_pipeline.supervision import standby
from framehaul_pipeline.supervision.standby import Standby, needed_imports

MODELS = tuple(kind.model(msgspec.structs.replace(TINY_SPEC, name=kind.kind)) for kind in BUILT_IN)
LOADERS = {model.loader.partition(":")[0] for model in MODELS}


def test_it_is_where_the_decoders_classes_are() -> None:
    """A library that moves them costs a restart its seconds, so this says so."""
    found = set(needed_imports(WorkerConfig(models=MODELS, device="cpu")))
    library = (
        diffusers.AutoencoderKL,
        diffusers.AutoencoderKLHunyuanVideo,
        diffusers.AutoencoderKLHunyuanVideo15,
        diffusers.AutoencoderKLMiniMaxH3,
        diffusers.AutoencoderKLLTXVideo,
        diffusers.AutoencoderKLLTX2Video,
    )
    assert found - LOADERS == {each.__module__ for each in library}


def test_kernels_are_imported_where_a_gpu_may_be() -> None:
    """Each module once, and no other model's."""
    tiny = TINY.loader.partition(":")[0]
    assert needed_imports(WorkerConfig(device="cpu")) == (tiny,)
    assert needed_imports(WorkerConfig(device="cuda")) == (tiny, "framehaul_pipeline.device.convert_kernels")
    every = needed_imports(WorkerConfig(models=MODELS, device="auto"))
    assert len(set(every)) == len(every) == 10 + len(LOADERS)


class Hollow:
    """A process that is only its socket."""

    def __init__(self, *, on_exit: Callable[[int], None], imports: Sequence[str]) -> None:
        self.connection, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid, self.on_exit = 1, on_exit

    def kill(self) -> None:
        self.theirs.close()
        self.on_exit(-9)

    def answer(self) -> None:
        self.theirs.send(b"alive")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("num_answers", "then", "taken"),
    [
        pytest.param(2, (), True, id="lives"),
        pytest.param(1, (), False, id="hangs"),
        pytest.param(0, (), False, id="hangs in an import"),
        pytest.param(1, ("kill",), False, id="dies while it is asked"),
        pytest.param(1, ("answer", "kill"), False, id="dies once it has answered"),
    ],
)
async def test_a_standby_is_taken_only_if_it_answers(
    monkeypatch: pytest.MonkeyPatch, num_answers: int, then: Sequence[str], taken: bool
) -> None:
    """Once when it has imported all, and once when it is needed; one that doesn't is killed, and there is none then."""
    monkeypatch.setattr(standby, "WorkerProcess", Hollow)
    monkeypatch.setattr(standby, "_IMPORT_S", 0.0)
    monkeypatch.setattr(standby, "_ANSWER_S", 20.0 if taken or then else 0.05)
    one = Standby(WorkerConfig(device="cpu"), RestartBudget(1, 1.0))
    one.start()
    process: Any = one._process
    for _ in range(num_answers):
        process.answer()
    taking = asyncio.create_task(one.take())
    await asyncio.sleep(0)
    for happens in then:
        getattr(process, happens)()
    found = await taking
    assert found is (process if taken else None)
    assert one.pid is None
    process.kill()
    process.connection.close()


@pytest.mark.asyncio
async def test_who_stops_waiting_for_a_standbys_answer_leaves_it_to_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed when the server closes; one that was killed before it was asked anything is no matter."""
    monkeypatch.setattr(standby, "WorkerProcess", Hollow)
    one = Standby(WorkerConfig(device="cpu"), RestartBudget(1, 1.0))
    one.start()
    process: Any = one._process
    theirs = process.theirs
    taking = asyncio.create_task(one.take())
    await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert one._process is process
    await one.aclose()
    assert theirs.fileno() == -1


def test_a_worker_process_imports_what_it_is_told_to_and_logs_what_it_cannot() -> None:
    """Before it waits for its orders; here the server is gone by then."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    program = (
        "import sys; from framehaul_pipeline.worker import main; code = main.main(); "
        "print(code, 'colorsys' in sys.modules)"
    )
    with theirs:
        done = subprocess.run(
            [sys.executable, "-c", program, str(theirs.fileno()), "no_such_module", "colorsys"],
            pass_fds=(theirs.fileno(),),
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[4] / "pipeline")},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.stdout == "0 True\n", done.stderr
    assert "standby can't import module=no_such_module: ModuleNotFoundError: No module named" in done.stderr
