"""Rules about the tree as a whole that no single module's test can hold."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = [
    ROOT / "protos/framehaul",
    ROOT / "pipeline/framehaul_pipeline",
    ROOT / "server/framehaul_server",
    ROOT / "client/framehaul_client",
    ROOT / "fleet/framehaul_fleet",
]


@pytest.mark.parametrize(
    "module",
    [
        "framehaul_server.cli",
        "framehaul_client.command.cli",
        "framehaul_fleet.cli",
        "framehaul_pipeline.supervision.supervisor",
    ],
)
def test_server_and_client_never_import_torch(module: str) -> None:
    """Not even through something else: only the worker process may have a CUDA context."""
    check = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


# Whole modules that run code from bytes, or pickle behind the scenes.
UNSAFE_MODULES = {
    *("pickle", "_pickle", "cPickle", "marshal", "shelve", "dbm", "dill", "cloudpickle", "joblib", "jsonpickle"),
    *("multiprocessing", "torch.multiprocessing"),
}
# Functions that do so with bytes of their callers; `safetensors.torch.load` and its like read no code.
UNSAFE_CALLS = {
    *("torch.load", "torch.hub.load", "torch.package", "torch.jit.load", "torch.save"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "np.load", "numpy.load", "eval", "exec"),
}
UNSAFE_ARGUMENTS = {"allow_pickle", "trust_remote_code", "weights_only"}


PINNED = {"efficientnet_lite.py": ["torch.load", "weights_only"]}
"""A package's file that is a pickle: read only with the one digest that is known."""


def unsafe(source: str) -> list[str]:
    """What in a module could run code out of bytes."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in UNSAFE_CALLS:
                found.append(called)
            found += [word.arg for word in node.keywords if word.arg in UNSAFE_ARGUMENTS]
        for name in names:
            if name in UNSAFE_MODULES | UNSAFE_CALLS or name.partition(".")[0] in UNSAFE_MODULES:
                found.append(name)
    return found


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_nothing_unpickles(package: Path) -> None:
    """No pickle, and nothing that runs code out of bytes in another way, anywhere in what ships."""
    found = {path.name: names for path in package.rglob("*.py") if (names := unsafe(path.read_text()))}
    assert found.items() <= PINNED.items()


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import multiprocessing.shared_memory",
        "from torch import load",
        "import torch\ntorch.load(file)",
        "import numpy as np\nnp.load(file)",
        "from_pretrained(name, trust_remote_code=True)",
        "from marshal import loads",
        "import yaml\nyaml.load(text)",
        "eval(text)",
    ],
)
def test_the_check_for_unpickling_finds_what_it_should(source: str) -> None:
    assert unsafe(source)


FOLDERS = sorted(path for package in PACKAGES[1:] for path in package.rglob("__init__.py") if path.parent != package)


@cache
def imported_modules(path: Path) -> set[str]:
    """Dotted names of what a module imports: modules, and names in them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("door", FOLDERS, ids=lambda path: ".".join(path.parent.parts[-2:]))
def test_a_door_names_what_other_folders_use(door: Path) -> None:
    """`__all__` is the modules and folders that the rest of the product imports: no more, no fewer."""
    folder = door.parent
    package = ".".join(folder.relative_to(next(root for root in PACKAGES if root in folder.parents).parent).parts)
    used: set[str] = set()
    for path in (path for root in PACKAGES for path in root.rglob("*.py") if folder not in path.parents):
        for name in imported_modules(path):
            if name.startswith(package + "."):
                used.add(name.removeprefix(package + ".").partition(".")[0])
    named: list[str] = []
    for node in ast.parse(door.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            named = ast.literal_eval(node.value)
    assert set(named) == used
    assert named == sorted(named)


@pytest.mark.parametrize("package", PACKAGES[1:], ids=lambda path: path.name)
def test_the_map_has_each_folder(package: Path) -> None:
    """At the head of the design: a row for each, and for no other."""
    design = (ROOT / "docs/design.md").read_text()
    rows = design.partition(f"\n`{package.relative_to(ROOT)}/`:")[2].partition("\n\n|")[2].partition("\n\n")[0]
    told = {row.split("`")[1].rstrip("/") for row in rows.splitlines() if row.startswith("| `")}
    assert told == {door.parent.name for door in FOLDERS if door.parent.parent == package}
