from pathlib import Path

import pytest

from framehaul_server import cli
from framehaul_server.errors import CannotWork
from framehaul_server.front.gpus import find_gpus, near_processors, read_processors
from framehaul_server.front.host import HostShare, choose_devices, member_arguments

SHARE = HostShare(32 << 30, 6 << 30)


@pytest.mark.parametrize(
    ("devices", "num_gpus", "expected"),
    [
        (("all",), 2, ["cuda:0", "cuda:1"]),
        (("cuda:3", "cuda:0"), 4, ["cuda:3", "cuda:0"]),
        (("cpu", "cpu"), 0, ["cpu", "cpu"]),
    ],
)
def test_devices_are_those_that_are_named(devices: tuple[str, ...], num_gpus: int, expected: list[str]) -> None:
    assert choose_devices(devices, num_gpus) == expected


@pytest.mark.parametrize(
    ("devices", "num_gpus", "text"),
    [
        (("all",), 0, "--devices all: this host has no GPU"),
        (("cuda:2",), 2, "--devices cuda:2: cuda:2 isn't there: must be cuda:0..cuda:1"),
        (("cpu", "cuda:0"), 0, "--devices cpu,cuda:0: cuda:0 isn't there: must be cpu, for CUDA shows no GPU"),
    ],
)
def test_a_device_that_is_not_there_is_told(devices: tuple[str, ...], num_gpus: int, text: str) -> None:
    with pytest.raises(CannotWork, match=text):
        choose_devices(devices, num_gpus)


def test_servers_are_told_what_their_front_is_told_but_for_where_they_are() -> None:
    """Read by the same parser: ports of their own, under the front's name."""
    told = "--devices cuda:0,cuda:1 --listen 127.0.0.2:50051 --advertise gpu7:50051 --metrics 127.0.0.1:9464 --slots 6"
    arguments = told.split()
    config = cli.parse(arguments, {})
    for index in range(2):
        member = cli.parse(
            member_arguments(config, arguments, f"cuda:{index}", index, SHARE), {"FRAMEHAUL_DEVICES": "all"}
        )
        assert (member.devices, member.worker.device, member.worker.num_slots) == ((), f"cuda:{index}", 6)
        assert (str(member.listen), member.advertise) == ("127.0.0.2:0", "gpu7:0")
        assert str(member.metrics) == f"127.0.0.1:{9465 + index}"
    plain = cli.parse(["--devices", "cpu"], {})
    member = cli.parse(member_arguments(plain, [], "cpu", 0, SHARE), {})
    assert (str(member.listen), member.advertise, member.metrics) == ("127.0.0.1:0", None, None)


def test_servers_share_the_hosts_memory_and_take_what_they_are_told() -> None:
    """Of which each would take a part by itself, as if it were alone."""
    config = cli.parse(["--devices", "cuda:0"], {})
    gpu = cli.parse(member_arguments(config, [], "cuda:0", 0, SHARE), {}).worker
    cpu = cli.parse(member_arguments(config, [], "cpu", 0, SHARE), {}).worker
    assert (gpu.park_bytes, gpu.device_memory_bytes) == (8 << 30, None)
    assert (cpu.park_bytes, cpu.device_memory_bytes) == (None, 3 << 30)
    told = ["--devices", "cuda:0", "--park-gib", "1", "--device-memory-gib", "2"]
    for device in ("cuda:0", "cpu"):
        worker = cli.parse(member_arguments(cli.parse(told, {}), told, device, 0, SHARE), {}).worker
        assert (worker.park_bytes, worker.device_memory_bytes) == (1 << 30, 2 << 30)


def test_processors_near_a_device_are_those_of_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of them, those that this process may use; all, where the system doesn't say."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 2, 8, 9})
    device, node = tmp_path / "bus/pci/devices/0000:ab:00.0", tmp_path / "devices/system/node/node1"
    device.mkdir(parents=True)
    node.mkdir(parents=True)
    (device / "numa_node").write_text("1\n")
    (node / "cpulist").write_text("2-3,8\n")
    assert near_processors("0000:AB:00.0", sysfs=tmp_path) == {2, 8}
    (device / "numa_node").write_text("-1\n")
    assert near_processors("0000:AB:00.0", sysfs=tmp_path) == set()
    assert near_processors("0000:00:00.0", sysfs=tmp_path) == set()
    assert read_processors("\n") == set()


def test_finding_gpus_needs_none() -> None:
    """In a process of its own, which ends well where there is no driver."""
    assert all(address.count(":") == 2 for address in find_gpus())
