"""What a server process holds."""

import re
from pathlib import Path
from typing import Final

from tests.support.server_process import ServerProcess

MIB: Final = 1 << 20


def peak_bytes(server: ServerProcess) -> int:
    """Most memory that the server process has held since `forget_peak`."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def forget_peak(server: ServerProcess) -> None:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
