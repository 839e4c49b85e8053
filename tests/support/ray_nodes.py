"""A cluster of Ray whose nodes are all this machine, at 127.0.0.2 and on, and the `fleet` command on it.

`python -m tests.support.ray_nodes FOLDER NUM_CPUS` is the process that owns the nodes: Ray's own test bed. It does what
it reads, `add` or `remove HOST`, answers each with a line, and ends the cluster when nothing more is to come.
"""

import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.support.server_process import environment

_OBJECTS_BYTES = 80 << 20
_COMMAND_TIMEOUT_S = 180.0


class RayNodes:
    """The cluster, with a token of its own."""

    def __init__(self, process: "subprocess.Popen[str]", variables: dict[str, str]) -> None:
        self._process = process
        self.variables = variables
        self.hosts: list[str] = []
        self.address = self._answer()

    def add(self) -> str:
        """Start a node; gives its address."""
        self._tell("add")
        self.hosts.append(self._answer())
        return self.hosts[-1]

    def remove(self, host: str) -> None:
        """Kill all processes of a node, all at once."""
        self.hosts.remove(host)
        self._tell(f"remove {host}")
        self._answer()

    def fleet(self, command: str, *options: str) -> "subprocess.CompletedProcess[str]":
        """Run the `fleet` command on the cluster."""
        return subprocess.run(
            [sys.executable, "-m", "framehaul_fleet", command, "--ray", self.address, *options],
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        """What `fleet status` says."""
        done = self.fleet("status", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def processes(self, text: str) -> list[psutil.Process]:
        """Those of the cluster that have `text` in their command line."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            try:
                if text in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def start_locator(self, log: Path, *options: str) -> "tuple[subprocess.Popen[bytes], str]":
        """Start `fleet locate` for the cluster; gives its address, once it answers."""
        with log.open("ab") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "framehaul_fleet", "locate", "--ray", self.address, *options],
                env=self.variables,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert " naming servers on " in line, log.read_text()
        return process, line.split(" on ")[1].split(",")[0]

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith("> "):
                return line[2:].strip()
        raise AssertionError("the nodes' process has ended")


@contextmanager
def running_nodes(num_nodes: int, num_cpus: int) -> Iterator[RayNodes]:
    """Start a cluster; at the end nothing of it is left."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    variables = environment(RAY_USAGE_STATS_ENABLED="0", **token)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "nodes.log"
        with (
            log.open("w") as stderr,
            subprocess.Popen(
                [sys.executable, "-m", "tests.support.ray_nodes", folder, str(num_cpus)],
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            ) as process,
        ):
            children: list[psutil.Process] = []
            try:
                nodes = RayNodes(process, variables)
                for _ in range(num_nodes - 1):
                    nodes.add()
                yield nodes
            finally:
                children = psutil.Process(process.pid).children(recursive=True)
                assert process.stdin is not None
                process.stdin.close()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                for child in psutil.wait_procs(children, timeout=5)[1]:
                    child.kill()
                psutil.wait_procs(children, timeout=5)


def main() -> None:
    """See the module's docstring."""
    from ray.cluster_utils import Cluster

    folder, num_cpus = sys.argv[1:]
    cluster = Cluster()
    nodes: dict[str, Any] = {}

    def add() -> str:
        host = f"127.0.0.{len(nodes) + 2}"
        nodes[host] = cluster.add_node(
            num_cpus=int(num_cpus),
            node_ip_address=host,
            object_store_memory=_OBJECTS_BYTES,
            include_dashboard=False,
            temp_dir=folder,
        )
        return host

    def answer(text: str) -> None:
        sys.stdout.write(f"> {text}\n")
        sys.stdout.flush()

    add()
    answer(cluster.address)
    for line in sys.stdin:
        command, _, host = line.strip().partition(" ")
        if command == "add":
            answer(add())
        else:
            cluster.remove_node(nodes[host], allow_graceful=False)
            answer("removed")
    cluster.shutdown()


if __name__ == "__main__":
    main()
