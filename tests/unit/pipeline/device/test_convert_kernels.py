"""The kernels without a GPU: what they compute, by Triton's interpreter, and that they compile for one."""

import os
import subprocess
import sys
from pathlib import Path


def run(program: str, cache: Path, **variables: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    completed = subprocess.run(
        [sys.executable, "-m", "tests.unit.pipeline.device.convert_kernels_program", program],
        env=environment | {"TRITON_CACHE_DIR": str(cache)} | variables,
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.splitlines()


def test_they_give_the_bytes_that_torch_gives(tmp_path: Path) -> None:
    """Bit for bit, in every format, for every dtype and memory order of frames, and with values to be clamped."""
    assert run("interpret", tmp_path, TRITON_INTERPRET="1") == ["compared"] * 60


def test_they_compile_for_a_gpu_without_fused_multiply_adds(tmp_path: Path) -> None:
    """The interpreter takes what the compiler refuses; and a fused one would round otherwise than torch."""
    assert run("compile", tmp_path) == ["compiled"] * 4
