"""Does a highlight show what is looked for? Films with a planted product, through a real server.

python -m bench.highlights --films 10 --first-seed 100 --out out/bench/highlights
"""

import argparse
import asyncio
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.planted import Planted, make_planted
from tests.support.server_process import running_server

from framehaul_client import Excerpt, FrameClient, Query, Scores

ENOUGH = 0.8
"""Intersection over union with the truth, from which an excerpt is right."""


@dataclass(frozen=True)
class Found:
    """What came of one film; times in seconds."""

    seed: int
    start: float
    truth: float
    overlap: float
    score: float
    weak: bool
    took_s: float


async def find(client: FrameClient, planted: Planted) -> Excerpt:
    """The best excerpt of a film."""
    query = Query(images=[planted.picture.read_bytes()])
    async with client.highlight(str(planted.film), query) as found:
        scores = [event async for event in found if isinstance(event, Scores)]
    return scores[0].excerpts[0]


async def find_all(target: str, films: dict[int, Planted]) -> list[Found]:
    """One film after the other."""
    results = []
    async with FrameClient(target) as client:
        for seed, planted in films.items():
            started_s = time.perf_counter()
            best = await find(client, planted)
            result = Found(
                seed=seed,
                start=round(best.start, 2),
                truth=round(planted.start, 2),
                overlap=round(planted.overlap(best.start, best.end), 3),
                score=round(best.score, 2),
                weak=best.weak,
                took_s=round(time.perf_counter() - started_s, 1),
            )
            results.append(result)
            print(
                f"seed {seed}: planted at {result.truth:.2f} s, found at {result.start:.2f} s, "
                f"overlap {result.overlap:.2f}, {best}, {result.took_s:.1f} s",
                flush=True,
            )
    return results


def main() -> int:
    """Fails if less than 9 of 10 are right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("out/bench/highlights"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = range(options.first_seed, options.first_seed + options.films)
    films = {seed: make_planted(options.out, seed) for seed in seeds}
    with running_server(options.out / "server.log", "--highlight", "--device", options.device) as server:
        results = asyncio.run(find_all(server.target, films))
    right = sum(each.overlap >= ENOUGH for each in results)
    (options.out / "highlights.json").write_text(json.dumps([asdict(each) for each in results], indent=1))
    print(f"{right} of {len(results)} excerpts overlap the truth by {ENOUGH:g} or more")
    return int(right < 0.9 * len(results))


if __name__ == "__main__":
    raise SystemExit(main())
