"""The GPUs of this host, and the processors that are near each; found without torch, and without a context on any.

`python -m framehaul_server.front.gpus` prints the PCI addresses of those that CUDA shows to this process, in its order:
a process of its own, since CUDA's driver stays with the one that asked it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

_LIBRARY: Final = "libcuda.so.1"
_ADDRESS_BYTES: Final = 32
_TIMEOUT_S: Final = 60.0
SYSFS: Final = Path("/sys")


def find_gpus() -> list[str]:
    """PCI addresses, by CUDA's numbers; empty without a GPU or its driver."""
    asked = subprocess.run(
        [sys.executable, "-m", __name__], stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT_S, check=False
    )
    return asked.stdout.split() if asked.returncode == 0 else []


def near_processors(pci_address: str, *, sysfs: Path = SYSFS) -> set[int]:
    """Processors of the device's NUMA node that this process may use; empty where the system doesn't say."""
    try:
        node = int((sysfs / "bus/pci/devices" / pci_address.lower() / "numa_node").read_text())
        text = (sysfs / f"devices/system/node/node{node}/cpulist").read_text()
    except (OSError, ValueError):
        return set()
    return read_processors(text) & os.sched_getaffinity(0)


def read_processors(text: str) -> set[int]:
    """Read the system's form of a set: `0-3,8`."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def main() -> int:
    """Print them."""
    try:
        cuda = ctypes.CDLL(_LIBRARY)
    except OSError:
        return 0
    count, device = ctypes.c_int(), ctypes.c_int()
    address = ctypes.create_string_buffer(_ADDRESS_BYTES)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    for index in range(count.value):
        if cuda.cuDeviceGet(ctypes.byref(device), index) or cuda.cuDeviceGetPCIBusId(address, _ADDRESS_BYTES, device):
            return 1
        sys.stdout.write(address.value.decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
