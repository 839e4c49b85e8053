"""What a worker process runs first: `python -m framehaul_pipeline.worker.start FD [MODULE...]`.

Only the server decides when a worker stops, and a terminal's or a service manager's signal reaches both. So signals are
ignored here, before the seconds that importing torch takes. A process that has not been told to be a worker yet, a
standby, waits in `worker.main` with everything imported and no device touched.
"""

from __future__ import annotations

import signal
import sys

from framehaul_pipeline.orphans import end_with_parent


def main() -> int:
    """Run the worker; gives its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    end_with_parent()
    from framehaul_pipeline.worker import main as process

    return process.main()


if __name__ == "__main__":
    sys.exit(main())
