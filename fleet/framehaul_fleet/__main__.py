"""The `fleet` command's way in: says what to install where only the client is."""

from __future__ import annotations

import os
import sys

from framehaul.start import start


def main() -> int:
    """Run the command line."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # as the server's
    return start("fleet", "framehaul_fleet.cli")


if __name__ == "__main__":
    sys.exit(main())
