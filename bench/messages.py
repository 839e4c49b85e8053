"""How large a message should be: the same bytes through our transport in messages of different sizes.

`python -m bench.messages [--rounds 11] [--out DIR]`
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Final

from bench.harness import Results, run_rounds, table
from bench.transport import Pair

_KIB: Final = 1 << 10
_COLUMNS: Final = ("gb_per_s", "server_cpu_s_per_gb", "client_cpu_s_per_gb")
SIZES_KIB: Final = (256, 512, 768, 1024, 1280, 1536, 2048, 3072, 4095, 6144)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.3, help="about, for one figure of one round")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    given = parser.parse_args()
    results = Results(name="messages", title="Size of messages")
    with contextlib.ExitStack() as stack:
        pair = Pair("ours", stack)
        found = run_rounds(SIZES_KIB, given.rounds, lambda size: pair.measure(size * _KIB, given.seconds))
    results.figures = {str(size): found[size] for size in SIZES_KIB}
    results.say(
        f"Our transport as above; medians of {given.rounds} rounds, order rotated, about {given.seconds:g} s each."
    )
    results.say(
        table(
            ["message, KiB", "GB/s", "CPU s/GB, server", "client", "±"],
            ([size, *(each[name] for name in _COLUMNS), f"{each['spread']:.2f}x"] for size, each in found.items()),
        )
    )
    results.write(given.out)


if __name__ == "__main__":
    main()
