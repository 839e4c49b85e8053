"""One end of one transport, as a process: `python -m bench.transports NAME serve`, or `NAME fetch ADDRESS`.

The server says its address; then either end answers each line of JSON on its input with one, until the input ends.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import threading
import time
from typing import Any, Final

ENDS: Final = {
    "ours": ("grpc_ends", "serve_ours", "fetch_ours"),
    "stock": ("grpc_ends", "serve_stock", "fetch_stock"),
    "stock_tuned": ("grpc_ends", "serve_tuned_stock", "fetch_tuned_stock"),
    "streams": ("asyncio_ends", "serve_streams", "fetch_streams"),
    "aiohttp": ("aiohttp_ends", "serve_aiohttp", "fetch_aiohttp"),
    "websockets": ("websockets_ends", "serve_websockets", "fetch_websockets"),
    "zmq": ("zmq_ends", "serve_zmq", "fetch_zmq"),
    "sockets": ("blocking_ends", "serve_sockets", "fetch_sockets"),
    "memory": ("blocking_ends", "serve_memory", "fetch_memory"),
    "memory_copy": ("blocking_ends", "serve_memory", "fetch_memory_copy"),
}


def main() -> int:
    """Run one end."""
    name, role, *rest = sys.argv[1:]
    module_name, serve, fetch = ENDS[name]
    module = importlib.import_module(f"bench.transports.{module_name}")
    if role == "serve":
        threading.Thread(target=_answer, daemon=True).start()
        getattr(module, serve)(lambda address: _say({"address": address}))
        return 0
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            request = json.loads(line)
            meter = runner.run(getattr(module, fetch)(rest[0], request["size"], request["count"]))
            _say(meter.figures())
    return 0


def _answer() -> None:
    """Tell the server's processor time; a thread, so that the server needs no part in it."""
    for _ in sys.stdin:
        _say({"cpu_s": time.process_time()})
    os._exit(0)


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.exit(main())
