"""The `server` command's way in: says what to install where only the client is."""

from __future__ import annotations

import os
import sys

from framehaul.start import start


def main() -> int:
    """Run the command line."""
    # gRPC writes lines of its own, in no form and without limit, whenever a stranger fails at a handshake, say.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    return start("server", "framehaul_server.cli")


if __name__ == "__main__":
    sys.exit(main())
