"""What a standby has imported before it is needed."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import diffusers
import msgspec

from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.models.model import TINY, ModelKind
from framehaul_pipeline.supervision.standby import needed_imports

KINDS = tuple(
    msgspec.structs.replace(TINY, kind=kind, spec=msgspec.structs.replace(TINY.spec, name=kind.value))
    for kind in ModelKind
)


def test_it_is_where_the_decoders_classes_are() -> None:
    """A library that moves them costs a restart its seconds, so this says so."""
    found = set(needed_imports(WorkerConfig(models=KINDS, device="cpu")))
    assert found == {diffusers.AutoencoderKL.__module__, diffusers.AutoencoderKLHunyuanVideo.__module__}


def test_kernels_are_imported_where_a_gpu_may_be() -> None:
    """Each module once, and no other model's."""
    assert not needed_imports(WorkerConfig(device="cpu"))
    assert needed_imports(WorkerConfig(device="cuda")) == ("framehaul_pipeline.device.convert_kernels",)
    every = needed_imports(WorkerConfig(models=KINDS, device="auto"))
    assert len(set(every)) == len(every) == 5


def test_a_worker_process_imports_what_it_is_told_to_and_leaves_out_what_is_not_there() -> None:
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
