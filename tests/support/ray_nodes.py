"""A cluster of Ray whose nodes are all this machine, at 127.0.0.2 and on, and the `fleet` command on it.

`python -m tests.support.ray_nodes FOLDER NUM_CPUS MOST_ADDED` is the process that owns the nodes: Ray's own test bed.
It does what it reads, `add` or `remove HOST`, answers each with a line, and ends the cluster when nothing more comes.
With MOST_ADDED the first node has no processors, and Ray's own autoscaler adds up to so many nodes, at 127.0.0.1.
"""

import json
import secrets
import socket
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
_HEAD_ID = "f" * 51 + "00000"
"""As the fake nodes' provider wants it."""
_AUTOSCALER = {
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # elsewhere these nodes are at 127.0.0.1
}
_IDLE_MINUTES = 0.1
"""Until the autoscaler takes an empty node away."""


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
def running_nodes(num_nodes: int, num_cpus: int, *, most_added: int = 0) -> Iterator[RayNodes]:
    """Start a cluster, to which Ray's autoscaler may add `most_added` nodes; at the end nothing of it is left."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    variables = environment(RAY_USAGE_STATS_ENABLED="0", **token, **(_AUTOSCALER if most_added else {}))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "nodes.log"
        with (
            log.open("w") as stderr,
            subprocess.Popen(
                [sys.executable, "-m", "tests.support.ray_nodes", folder, str(num_cpus), str(most_added)],
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


def autoscaling_head(folder: str, num_cpus: int, most_added: int) -> dict[str, Any]:
    """What makes a head that asks Ray's provider of fake nodes for nodes with so many processors."""
    with socket.create_server(("127.0.0.2", 0)) as probe:
        port = probe.getsockname()[1]
    worker = {"CPU": num_cpus, "object_store_memory": _OBJECTS_BYTES}
    lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    config = {
        "cluster_name": "fake",
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.2:{port}",
            "head_node_id": _HEAD_ID,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "foreground_node_launch": True,
        },
        "max_workers": most_added,
        "idle_timeout_minutes": _IDLE_MINUTES,
        "upscaling_speed": float(most_added),
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": most_added},
        },
        **{f"{name}_commands": [] for name in lists},
        **{"auth": {}, "file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False},
        **{"rsync_exclude": [], "rsync_filter": []},
    }
    path = Path(folder) / "autoscaler.json"
    path.write_text(json.dumps(config))
    return {
        "num_cpus": 0,
        "gcs_server_port": port,
        "autoscaling_config": str(path),
        "env_vars": {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID},
    }


def main() -> None:
    """See the module's docstring."""
    from ray.cluster_utils import Cluster

    folder, num_cpus, most_added = sys.argv[1], *map(int, sys.argv[2:])
    cluster = Cluster()
    nodes: dict[str, Any] = {}

    def add() -> str:
        host = f"127.0.0.{len(nodes) + 2}"
        told: dict[str, Any] = {"num_cpus": num_cpus, "node_ip_address": host, "object_store_memory": _OBJECTS_BYTES}
        if most_added:
            told |= autoscaling_head(folder, num_cpus, most_added)
        nodes[host] = cluster.add_node(**told, include_dashboard=False, temp_dir=folder)
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
