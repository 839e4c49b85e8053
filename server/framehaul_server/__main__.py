"""The `server` command's way in: says what to install where only the client is."""

from __future__ import annotations

import os
import sys

from framehaul.options import open_standard_files

EXIT_USAGE = 2


def main() -> int:
    """Run the command line."""
    open_standard_files()
    # gRPC writes lines of its own, in no form and without limit, whenever a stranger fails at a handshake, say.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from framehaul_server.cli import main as run
    except ModuleNotFoundError as error:
        sys.stderr.write(f"server: {error.name} is not installed here: pip install 'framehaul[server]'\n")
        return EXIT_USAGE
    return run()


if __name__ == "__main__":
    sys.exit(main())
