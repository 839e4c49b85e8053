"""What reproducible sessions cost: the same clip in a default session and in a reproducible one, for `bench.gpu_wan`.

Both go through one server, one at a time, from one client process that throws frames away. Every latent is there from
the start, so that default sessions get the longest chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.harness import Results, run_rounds, table
from bench.processes import Peer, Server
from framehaul_pipeline.models.model import TINY, Model

_TINY_CLIPS: Final = 20
"""How many times as many latents `tiny` gets, which is as much faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """What is decoded."""

    device: str
    model: Model
    """From a folder; beside `tiny`."""
    size: tuple[int, int]
    """Height and width of frames."""
    latents: int
    server: Sequence[str]
    """More of its options."""


def run_reproducible(plan: Priced, rounds: int, results: Results) -> None:
    """Measure both models; add a table."""
    height, width = plan.size
    name = plan.model.spec.name
    models = {name: (plan.model.spec, plan.latents), TINY.spec.name: (TINY.spec, _TINY_CLIPS * plan.latents)}
    options = ["--model", f"{name}={plan.model.path}", "--model", TINY.spec.name, "--warm-up", f"{width}x{height}"]
    with Server("--device", plan.device, *options, *plan.server) as server, Peer("bench.stream_client") as client:
        client.receive()

        def measure(case: tuple[str, bool]) -> dict[str, float]:
            model, reproducible = case
            spec, latents = models[model]
            request = {"target": server.target, "model": model, "height": height, "width": width, "sink": "discard"}
            request |= {"channels": spec.channels, "factor": spec.spatial_factor, "latents": latents}
            run: dict[str, Any] = client.ask(request | {"reproducible": reproducible})["sessions"][0]
            first_frame_ms = (run["messages"][0][0] - run["started_ns"]) / 1e6
            rate = run["num_frames"] / (run["ended_ns"] - run["started_ns"]) * 1e9
            print(f"{model}, reproducible={reproducible}: {rate:.1f} frames/s", flush=True)
            return {"frames_per_s": rate, "first_frame_ms": first_frame_ms}

        cases = [(model, reproducible) for model in models for reproducible in (False, True)]
        for case in cases:
            measure(case)  # buffers are filled
        found = run_rounds(cases, rounds, measure)
    results.figures["reproducible"] = {
        f"{model}, {reproducible}": found[model, reproducible] for model, reproducible in cases
    }
    rows = []
    for model, (_, latents) in models.items():
        usual, same = found[model, False], found[model, True]
        price = usual["frames_per_s"] / same["frames_per_s"] - 1
        figures = [each for case in (usual, same) for each in (case["frames_per_s"], f"{case['spread']:.2f}x")]
        rows.append([f"`{model}`, {height}x{width}, {latents} latents", *figures, f"{price:+.1%}"])
    results.say(table(["", "frames/s", "±", "reproducible, frames/s", "±", "takes longer by"], rows))
