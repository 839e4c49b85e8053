"""All benchmarks that need no GPU, one after the other, then the tables and plots of docs/benchmarks.md.

`python -m bench.cpu [--rounds 5] [--docs docs] [--toy]`: about 7 minutes on 2 CPUs, 15 at most.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from bench import ROOT
from bench.processes import python_environment

PROGRAMS: Final = {
    "handover": ("--count", "20"),
    "transport": ("--seconds", "0.01"),
    "messages": ("--seconds", "0.01"),
    "sessions": ("--latents", "64", "--stalled", "1"),
    "idle": ("--sessions", "125"),
    "priorities": ("--size", "64x64", "--latents", "1", "--late-latents", "1"),
}
"""The programs, and how each is tried."""
_BUDGET_S: Final = 900.0


def main() -> int:
    """Run the programs; what they print is the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--docs", type=Path, help="fill in the figures of docs/benchmarks.md in this folder")
    parser.add_argument("--toy", action="store_true", help="as little as may be, to try the programs")
    given = parser.parse_args()
    deadline_s = time.monotonic() + _BUDGET_S
    failed = []
    for name, toy in PROGRAMS.items():
        command = [sys.executable, "-m", f"bench.{name}", "--rounds", str(given.rounds), "--out", str(given.out)]
        command += toy if given.toy else ()
        remaining_s = max(1.0, deadline_s - time.monotonic())
        done = subprocess.run(command, cwd=ROOT, env=python_environment(), timeout=remaining_s, check=False)
        if done.returncode:
            failed.append(name)
    if given.docs is not None:
        command = [sys.executable, "-m", "bench.report", "--results", str(given.out), "--docs", str(given.docs)]
        subprocess.run(command, cwd=ROOT, env=python_environment(), check=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
