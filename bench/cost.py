"""What 1,000 hours of video cost with each model that is served, beside diffusers' own decode on the same card.

Framehaul's figures are those of the real server and a real client, which drops the frames, and of what the server tells
`client models --price`: the rate of its device. *Of light* is frames a second out over those that the decoder's kernels
alone would make. Used by `bench.gpu`. Weights are random, at the published configurations.
"""

from __future__ import annotations

import asyncio
import importlib.util
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from bench.harness import Results, table
from bench.processes import Peer, Server, make_weights
from framehaul_client.client import FrameClient
from framehaul_client.command.info import COST_HOURS, cost
from framehaul_client.core.info import Model, Rate, ServerInfo
from framehaul_pipeline.models.model import TINY_SPEC

FPS: Final = Fraction(24)
_CASE_RESERVE_S: Final = 20.0
_WARM_UP_LATENTS: Final = (2, 3, 4, 5, 9)
"""Libraries choose their algorithms for every length of chunk."""
_TRIAL_LATENTS: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPlan:
    """Sizes of a run."""

    device: str
    sizes: tuple[tuple[int, int], ...]
    """Height and width."""
    seconds: float
    """Of each clip, about."""
    rounds: int
    price: float
    """Of the device, an hour."""
    toy: bool
    remaining_s: Callable[[], float]


def run_cost(plan: CostPlan, results: Results) -> None:
    """Measure every model at every size; add a table to `results`."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        weights = _weights(Path(folder), toy=plan.toy)
        options = [part for model in weights for part in ("--model", f"{model}={weights[model]}")]
        sizes = ",".join(f"{width}x{height}" for height, width in plan.sizes)
        with (
            Server("--device", plan.device, "--warm-up", sizes, "--model", TINY_SPEC.name, *options) as server,
            Peer("bench.stream_client") as client,
            Peer("bench.gpu_baseline", plan.device) as baseline,
        ):
            client.receive()
            bench = _Bench(server, client, baseline, plan)
            for height, width in plan.sizes:
                for model in (TINY_SPEC.name, *weights):
                    if plan.remaining_s() > _CASE_RESERVE_S:
                        found.append(bench.framehaul(model, height, width))
                    if model in weights and plan.remaining_s() > _CASE_RESERVE_S:
                        found.append(bench.diffusers(model, weights[model], height, width))
    results.figures["cost"] = {"price": plan.price, "fps": str(FPS), "cases": found}
    results.say(
        f"What {COST_HOURS:,} hours of video at {FPS} frames/s cost, on a device at {plan.price:.2f} an hour that "
        f"decodes all the time. One clip of about {plan.seconds:g} s at a time, timed from its opening to its last "
        f"frame, which is dropped where it arrives; medians of {plan.rounds} rounds:"
    )
    results.say(cost_table(found, plan.price))
    if not weights:
        results.say("Wan's models are left out: their weights are made with diffusers, which isn't installed.")


def cost_table(found: list[dict[str, Any]], price: float) -> str:
    """One row a case."""
    rows = []
    for each in found:
        light = each.get("speed_of_light")
        rows.append(
            [
                each["model"],
                each["size"],
                each["by"],
                each["frames_per_s"],
                "-" if light is None else f"{light:.1%}",
                each.get("device_frames_per_s", float("nan")),
                f"{cost(each['frames_per_s'], price, FPS):,.2f}",
            ]
        )
    heads = ["model", "size", "by", "frames/s", "of light", "of the device", f"{COST_HOURS:,} hours"]
    return table(heads, rows)


def spent(before: ServerInfo, after: ServerInfo, model: str, size: tuple[int, int]) -> Rate:
    """What a model took of the device between two answers, for frames of this height and width.

    Raises:
        LookupError: nothing.
    """
    height, width = size
    rates = []
    for info in (before, after):
        measured = [rate for each in info.models if each.name == model for rate in each.rates]
        rates.append(next((rate for rate in measured if (rate.width, rate.height) == (width, height)), None))
    first, last = rates
    if last is None or last == first:
        raise LookupError(f"{model} at {width}x{height}: the server measured nothing")
    if first is None:
        return last
    return Rate(
        width=width,
        height=height,
        num_frames=last.num_frames - first.num_frames,
        device_s=last.device_s - first.device_s,
        kernels_s=last.kernels_s - first.kernels_s,
    )


class _Bench:
    def __init__(self, server: Server, client: Peer, baseline: Peer, plan: CostPlan) -> None:
        self._server, self._client, self._baseline, self._plan = server, client, baseline, plan

    def framehaul(self, model: str, height: int, width: int) -> dict[str, Any]:
        described = next(each for each in self._info().models if each.name == model)
        for latents in _WARM_UP_LATENTS:
            self._stream(described, height, width, latents)
        trial_s = self._stream(described, height, width, _TRIAL_LATENTS)[1]
        rounds = []
        for _ in range(self._plan.rounds):
            before = self._info()
            num_frames, wall_s = self._stream(described, height, width, self._latents(trial_s))
            took = spent(before, self._info(), model, (height, width))
            light = num_frames / wall_s * took.kernels_s / took.num_frames if took.kernels_s else None
            rounds.append((num_frames / wall_s, took.frames_per_s, light))
        out, device, lights = zip(*rounds, strict=True)
        return {
            "model": model,
            "size": f"{width}x{height}",
            "by": "**Framehaul**",
            "frames_per_s": statistics.median(out),
            "device_frames_per_s": statistics.median(device),
            "speed_of_light": None if None in lights else statistics.median(lights),
        }

    def diffusers(self, model: str, folder: Path, height: int, width: int) -> dict[str, Any]:
        request = {"mode": "serial", "decoder": f"diffusers={folder}", "sessions": 1, "chunk": 1, "profile": False}
        request |= {"height": height, "width": width, "sink": "discard"}
        self._baseline.ask(request | {"latents": 3})
        latents = self._latents(self._baseline.ask(request | {"latents": _TRIAL_LATENTS})["wall_s"])
        runs = [self._baseline.ask(request | {"latents": latents}) for _ in range(self._plan.rounds)]
        return {
            "model": model,
            "size": f"{width}x{height}",
            "by": "diffusers, frames as 8 bits on the host",
            "frames_per_s": statistics.median(run["num_frames"] / run["wall_s"] for run in runs),
        }

    def _latents(self, trial_s: float) -> int:
        """How many make a clip of about the plan's seconds, after `_TRIAL_LATENTS` took `trial_s`."""
        return max(_TRIAL_LATENTS, round(_TRIAL_LATENTS * self._plan.seconds / trial_s))

    def _stream(self, model: Model, height: int, width: int, latents: int) -> tuple[int, float]:
        """Decode a clip; gives its frames, and the seconds from its opening to its last one."""
        request = {"target": self._server.target, "model": model.name, "sink": "discard", "latents": latents}
        request |= {"height": height, "width": width, "channels": model.channels, "factor": model.spatial_factor}
        session = self._client.ask(request)["sessions"][0]
        return session["num_frames"], (session["messages"][-1][0] - session["started_ns"]) / 1e9

    def _info(self) -> ServerInfo:
        async def ask() -> ServerInfo:
            async with FrameClient(self._server.target) as client:
                return await client.info()

        return asyncio.run(ask())


def _weights(folder: Path, *, toy: bool) -> dict[str, Path]:
    """Folders with random weights by model; none without diffusers, which makes them."""
    if importlib.util.find_spec("diffusers") is None:
        return {}
    found = {model: folder / model for model in ("wan2.1", "wan2.2")}
    for model, path in found.items():
        make_weights(path, model, toy=toy)
    return found
