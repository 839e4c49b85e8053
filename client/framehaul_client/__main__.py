"""`python -m framehaul_client`: the `client` command."""

import sys

from framehaul.start import client

if __name__ == "__main__":
    sys.exit(client())
