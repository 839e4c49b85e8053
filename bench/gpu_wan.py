"""All that is measured with Wan's VAE on a GPU, in one command: random weights at the published configuration.

`python -m bench.gpu_wan [--parts decode headline clients long tiny-streams reproducible] [--seconds 480]
[--device cuda] [--toy]` writes OUT/wan-PART.json and .md, and prints figures as they come. Parts run in the order
given; what doesn't fit is left out. Weights go to a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from pathlib import Path
from typing import Final

from bench.budget import Budget, gpu_name
from bench.contest import Contest
from bench.gpu_stream import Plan, run_streams
from bench.harness import Results
from bench.processes import make_weights
from bench.wan_decode import CONTENDERS, DecodePlan, run_decode
from bench.wan_reproducible import Priced, run_reproducible
from bench.wan_serving import CLIENTS, affordable, run_clients, run_headline, run_long, warm_up
from framehaul_pipeline.models.model import describe_model

TITLES: Final = {
    "decode": "Wan: the decode alone",
    "headline": "Wan: to a finished file",
    "clients": "Wan: eight clients",
    "long": "Wan: a long clip",
    "tiny-streams": "The built-in model's streams",
    "reproducible": "Reproducible sessions",
}
SERVED: Final = ("headline", "clients", "long")
_SERIAL_LATENT_S: Final = 0.16
"""Of the slowest way, with room to spare: what a round of the headline takes at most, for each latent."""
_STREAM_S: Final = 10.0


class Bench:
    """The parts, and the server that most of them share."""

    def __init__(self, given: argparse.Namespace, folder: Path, budget: Budget, stack: contextlib.ExitStack) -> None:
        """Start nothing yet."""
        self._given, self._folder, self._budget, self._stack = given, folder, budget, stack
        self._contest: Contest | None = None

    def run(self, part: str, results: Results) -> None:
        """Run one part."""
        given, remaining_s = self._given, self._budget.remaining_s
        match part:
            case "decode":
                run_decode(self._decode_plan(), results)
            case "headline":
                contest = self._serving()
                rounds = affordable(given.rounds + 1, _SERIAL_LATENT_S * given.latents * 2, remaining_s())
                run_headline(contest, given.latents, max(1, rounds - 1), results)
            case "clients":
                contest = self._serving()
                trial = contest.run("framehaul", CLIENTS, given.client_latents, "discard", profile=False)
                rounds = affordable(given.rounds, 3 * trial["wall_s"], remaining_s())
                run_clients(contest, given.client_latents, rounds, results)
            case "long":
                run_long(self._serving(), min(given.long_seconds, remaining_s()), given.long_latents, results)
            case "reproducible":
                run_reproducible(self._priced(), given.rounds, results)
            case _:
                sizes = ((64, 64),) if given.toy else ((480, 832), (720, 1280))
                run_streams(
                    Plan(device=given.device, sizes=sizes, seconds=given.stream_seconds, remaining_s=remaining_s),
                    results,
                )

    def _decode_plan(self) -> DecodePlan:
        given = self._given
        return DecodePlan(
            device=given.device,
            model=given.model,
            folder=self._folder,
            sizes=given.sizes,
            latents=given.decode_latents,
            rounds=given.rounds,
            contenders=tuple(given.contenders),
            compile_cap_s=given.compile_seconds,
            remaining_s=self._budget.remaining_s,
        )

    def _priced(self) -> Priced:
        given = self._given
        return Priced(
            device=given.device,
            model=describe_model(f"{given.model}={self._folder}"),
            size=given.sizes[0],
            latents=given.latents,
            server=given.server,
        )

    def _serving(self) -> Contest:
        if self._contest is None:
            height, width = self._given.sizes[0]
            options = ["--model", f"{self._given.model}={self._folder}", "--warm-up", f"{width}x{height}"]
            self._contest = Contest(
                self._given.device,
                (height, width),
                self._stack,
                baseline=f"diffusers={self._folder}",
                model=self._given.model,
                server=[*options, *self._given.server],
                chunk=1,
                num_clients=CLIENTS,
            )
            warm_up(self._contest)
        return self._contest


def parse_size(text: str) -> tuple[int, int]:
    """Read `HEIGHTxWIDTH`.

    Raises:
        ValueError: it is something else.
    """
    height, _, width = text.partition("x")
    return int(height), int(width)


def main() -> None:
    """Make the weights, run the parts."""
    given = _parse()
    budget = Budget(given.seconds, given.out)
    budget.watch()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, contextlib.ExitStack() as stack:
        folder = given.weights
        if folder is None:
            folder = Path(temporary) / given.model
            make_weights(folder, given.model, toy=given.toy)
        bench = Bench(given, folder, budget, stack)
        for part in given.parts:
            results = Results(name=f"wan-{part}", title=TITLES[part], device=gpu_name(given.device))
            budget.run(results, [(part, lambda part=part, results=results: bench.run(part, results))])  # type: ignore[misc]
            print(f"{part}: {budget.remaining_s():.0f} s left\n", flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--parts", nargs="+", default=tuple(TITLES), choices=tuple(TITLES))
    parser.add_argument("--seconds", type=float, default=480.0, help="for all; what doesn't fit is left out")
    parser.add_argument("--model", default="wan2.1", choices=("wan2.1", "wan2.2"))
    parser.add_argument("--weights", type=Path, help="a folder with weights; made at random where left out")
    parser.add_argument("--sizes", nargs="+", type=parse_size, help="of frames, HEIGHTxWIDTH; the first one is served")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decode-latents", type=int, default=21)
    parser.add_argument("--contenders", nargs="+", default=tuple(CONTENDERS), choices=tuple(CONTENDERS))
    parser.add_argument("--compile-seconds", type=float, default=150.0, help="for the compiled rival's first decodes")
    parser.add_argument("--latents", type=int, default=41, help="of the headline's clip")
    parser.add_argument("--client-latents", type=int, default=21, help="of each client's clip")
    parser.add_argument("--long-latents", type=int, default=4000, help="at most")
    parser.add_argument("--long-seconds", type=float, default=60.0)
    parser.add_argument("--stream-seconds", type=float, default=_STREAM_S)
    parser.add_argument("--server", nargs=argparse.REMAINDER, default=[], help="more options for the server; last")
    parser.add_argument("--toy", action="store_true", help="tiny sizes and widths, to try the program on a CPU")
    given = parser.parse_args()
    if given.model != "wan2.1" and set(given.parts) & set(SERVED):
        parser.error(f"--model {given.model}: takes --parts decode alone; the clients' latents are Wan 2.1's in shape")
    if given.toy:
        os.environ["FRAMEHAUL_BENCH_CONVOLUTIONS"] = "2"
        given.latents, given.decode_latents, given.client_latents = 4, 3, 2
        given.long_latents, given.stream_seconds = 40, 1.0
    given.sizes = given.sizes or ([(64, 96)] if given.toy else [(480, 832), (720, 1280)])
    return given


if __name__ == "__main__":
    main()
