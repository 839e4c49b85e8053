"""The product's server with the benchmarks' decoders added, and a worker that can be asked how busy its GPU is.

`python -m bench.server`: options as for `server`. Nothing else of the product is changed.
"""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import framehaul_pipeline.process as process
from bench.specs import describe
from framehaul_server import cli

PRODUCT_WORKER = "framehaul_pipeline.entry"
BENCH_WORKER = "bench.worker"


def _spawn(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([BENCH_WORKER if part == PRODUCT_WORKER else part for part in command], **options)


def main() -> int:
    """Run the server."""
    cli.describe_model = describe  # type: ignore[attr-defined]
    process.subprocess = SimpleNamespace(Popen=_spawn, DEVNULL=subprocess.DEVNULL)  # type: ignore[attr-defined, assignment]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
