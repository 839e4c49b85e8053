"""Fuzz one target with atheris: `python -m tests.fuzz.run TARGET --seconds 60`.

Prints how many inputs ran. An input that fails is kept in `tests/fuzz/corpus/TARGET/`, where `make test` runs it from
then on; that folder is for such inputs alone, the fuzzer's own finds go to a temporary one.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["framehaul", "framehaul_client", "framehaul_pipeline", "framehaul_server"]):
    from tests.fuzz.targets import CORPUS, TARGETS, seeds


def main() -> None:
    """Fuzz until the time is over; ends the process, as libFuzzer does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    found = CORPUS / given.target
    found.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds(given.target)):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
        options = [f"-max_total_time={given.seconds}", f"-artifact_prefix={found}/", "-max_len=2048", "-timeout=10"]
        atheris.Setup([sys.argv[0], folder, *options, "-print_final_stats=1"], TARGETS[given.target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
