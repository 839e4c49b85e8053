"""`python -m framehaul_client`: the `client` command."""

import sys

from framehaul_client.command.cli import main

if __name__ == "__main__":
    sys.exit(main())
