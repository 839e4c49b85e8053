"""Rules about the tree as a whole that no single module's test can hold."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = [
    ROOT / "protos/framehaul",
    ROOT / "pipeline/framehaul_pipeline",
    ROOT / "server/framehaul_server",
    ROOT / "client/framehaul_client",
]


@pytest.mark.parametrize("module", ["framehaul_server.cli", "framehaul_client.cli", "framehaul_pipeline.supervisor"])
def test_server_and_client_never_import_torch(module: str) -> None:
    """Not even through something else: only the worker process may have a CUDA context."""
    check = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_nothing_unpickles(package: Path) -> None:
    """No pickle, and nothing that pickles behind the scenes, anywhere in what ships."""
    forbidden = {"pickle", "multiprocessing", "shelve", "dill", "cloudpickle"}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]}
            else:
                continue
            assert not names & forbidden, f"{path}:{node.lineno}"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_files_stay_short(package: Path) -> None:
    """None over 300 lines; generated ones aside."""
    long = {
        str(path): lines
        for path in package.rglob("*.py")
        if "_pb2" not in path.name and (lines := len(path.read_text().splitlines())) > 300
    }
    assert not long
