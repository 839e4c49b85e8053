"""Benchmarks and load tests: small programs over one harness. Nothing of the product imports them.

They run from a checkout, whether the packages are installed or not.
"""

import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCES: Final = tuple(str(ROOT / folder) for folder in (".", "protos", "pipeline", "server", "client", "fleet"))
sys.path.extend(folder for folder in SOURCES if folder not in sys.path)
