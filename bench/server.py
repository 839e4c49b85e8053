"""The product's server with the benchmarks' decoders added, and a worker that can be asked how busy its GPU is.

`python -m bench.server`: options as for `server`. Nothing else of the product is changed.
"""

from __future__ import annotations

import sys

import framehaul_pipeline.supervision.process as process
from bench.specs import describe
from framehaul_server import cli

BENCH_WORKER = "bench.worker"


def main() -> int:
    """Run the server."""
    cli.describe_model = describe  # type: ignore[attr-defined]
    process.ENTRY_MODULE = BENCH_WORKER
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
