"""What a standby has imported before it is needed."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import diffusers
import msgspec

from framehaul_pipeline.models.model import BUILT_IN, TINY, TINY_SPEC
from framehaul_pipeline.supervision.config import WorkerConfig
from framehaul_pipeline.supervision.standby import needed_imports

MODELS = tuple(kind.model(msgspec.structs.replace(TINY_SPEC, name=kind.kind)) for kind in BUILT_IN)
LOADERS = {model.loader.partition(":")[0] for model in MODELS}


def test_it_is_where_the_decoders_classes_are() -> None:
    """A library that moves them costs a restart its seconds, so this says so."""
    found = set(needed_imports(WorkerConfig(models=MODELS, device="cpu")))
    assert found - LOADERS == {diffusers.AutoencoderKL.__module__, diffusers.AutoencoderKLHunyuanVideo.__module__}


def test_kernels_are_imported_where_a_gpu_may_be() -> None:
    """Each module once, and no other model's."""
    tiny = TINY.loader.partition(":")[0]
    assert needed_imports(WorkerConfig(device="cpu")) == (tiny,)
    assert needed_imports(WorkerConfig(device="cuda")) == (tiny, "framehaul_pipeline.device.convert_kernels")
    every = needed_imports(WorkerConfig(models=MODELS, device="auto"))
    assert len(set(every)) == len(every) == 5 + len(LOADERS)


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
