"""What a server process holds, as the system tells it."""

from pathlib import Path

import psutil

from tests.support.server_process import ServerProcess


def held(server: ServerProcess) -> dict[str, int]:
    """Processes, descriptors, memfds and slots of the server."""
    process = psutil.Process(server.process.pid)
    links = [psutil_link(path) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
    return {
        "processes": len(process.children(recursive=True)),
        "memfds": sum("memfd:framehaul" in link for link in links),
        "descriptors": sum("memfd:framehaul" not in link for link in links),
    }


def left(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """What there is more of than before."""
    return {name: count - before[name] for name, count in after.items() if count > before[name]}


def psutil_link(path: Path) -> str:
    try:
        return str(path.readlink())
    except FileNotFoundError:
        return ""
