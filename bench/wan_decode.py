"""Wan's decode alone, ours beside diffusers, diffusers compiled and fastvae: time, memory, error. For `bench.gpu_wan`.

Each is a process of `bench.wan_contender`, and one of them works at a time, in rounds of rotated order. The compiled
one comes last, in rounds of its own: what it takes to compile must not cost the others their turns.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.harness import Results, run_rounds, table
from bench.processes import Peer

OURS: Final = "ours-"
_REFERENCE: Final = "float32"
CONTENDERS: Final = {
    "diffusers": "diffusers as shipped",
    "fastvae": "fastvae 0.1.0",
    f"{OURS}1": "**Framehaul**, 1 latent a step",
    f"{OURS}2": "**Framehaul**, 2 latents a step",
    f"{OURS}4": "**Framehaul**, 4 latents a step",
    "compiled": "diffusers, torch.compile",
}
_LATE: Final = "compiled"
_WARM_UPS: Final = 2
_ERROR_LATENTS: Final = 5
_RESERVE_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePlan:
    """What is decoded, by whom, and how long that may take."""

    device: str
    model: str
    folder: Path
    sizes: tuple[tuple[int, int], ...]
    latents: int
    rounds: int
    contenders: tuple[str, ...]
    compile_cap_s: float
    """Longest time for the first decode of the compiled one."""
    remaining_s: Callable[[], float]


class DecodeBench:
    """The processes, and which of them are still in the race."""

    def __init__(self, plan: DecodePlan, stack: contextlib.ExitStack) -> None:
        """Start all of them: they import side by side."""
        self._plan, self._stack = plan, stack
        self._peers = {kind: self._start(kind) for kind in (*plan.contenders, _REFERENCE)}
        self.failed: dict[str, str] = {}

    def _start(self, kind: str) -> Peer:
        return self._stack.enter_context(Peer("bench.wan_contender", kind, self._plan.device, str(self._plan.folder)))

    def running(self, *, late: bool) -> list[str]:
        """Contenders that haven't failed: the one that compiles, or the others."""
        return [kind for kind in self._plan.contenders if kind in self._peers and (kind == _LATE) == late]

    def ask(self, kind: str, do: str, *, timeout_s: float | None = None, **more: Any) -> dict[str, Any] | None:
        """Ask one process; one that fails or takes too long is ended, and the others go on."""
        try:
            self._peers[kind].send({"do": do, **more})
            answer = self._peers[kind].receive(timeout_s)
        except (RuntimeError, OSError) as error:
            answer = {"error": f"{type(error).__name__} in {do}, {timeout_s or math.inf:.0f} s allowed"}
        if "error" not in answer:
            return answer
        self.failed[kind] = answer["error"]
        self._peers.pop(kind).kill()
        return None

    def keep_fastest(self, times: dict[str, dict[str, float]]) -> None:
        """End all of ours but the fastest: what all of them keep on the device would not fit at large sizes."""
        ours = {kind: times[kind]["seconds"] for kind in times if kind.startswith(OURS)}
        for kind in sorted(ours, key=ours.__getitem__)[1:]:
            self._peers.pop(kind).kill()

    def count(self, clips: list[dict[str, Any]]) -> tuple[float, list[float]]:
        """The card's rate at matrix products in FLOP/s, and the arithmetic of each clip in FLOP; NaN: not known."""
        on_cuda = self._plan.device == "cuda"
        rate = self.ask(_REFERENCE, "matrix_rate") if on_cuda else None
        flop = [self.ask(_REFERENCE, "flop", **clip) if _REFERENCE in self._peers else None for clip in clips]
        return (rate or {}).get("flop_per_s", math.nan), [(each or {}).get("flop", math.nan) for each in flop]

    def save_reference(self, clip: dict[str, Any], path: str) -> dict[str, Any] | None:
        """Decode the clip in float32 into a file; that process isn't needed any more."""
        found = self.ask(_REFERENCE, "save", path=path, **clip) if _REFERENCE in self._peers else None
        if found is not None:
            self._peers.pop(_REFERENCE).close()
        return found

    def errors(self, clip: dict[str, Any], path: str, *, late: bool) -> dict[str, dict[str, float]]:
        """Each one's difference to the reference."""
        answers = {
            kind: self.ask(kind, "compare", timeout_s=self._cap_s(kind), path=path, **clip)
            for kind in self.running(late=late)
        }
        print(f"errors: {answers}", flush=True)
        return {kind: answer for kind, answer in answers.items() if answer is not None}

    def times(self, clip: dict[str, Any], *, late: bool) -> dict[str, dict[str, float]]:
        """Medians of each one's time and memory."""
        warm_up_s, spent_s = {}, 0.0
        for kind in self.running(late=late):
            answer = self.ask(kind, "measure", timeout_s=self._cap_s(kind), untimed=_WARM_UPS, **clip)
            print(f"{clip['height']}x{clip['width']}, {kind}: {answer or self.failed[kind]}", flush=True)
            if answer is not None:
                warm_up_s[kind] = answer["warm_up_s"]
                spent_s += 2 * answer["seconds"]
        affordable = int((self._plan.remaining_s() - _RESERVE_S) / max(spent_s, 1e-3))
        rounds = max(1, min(self._plan.rounds, affordable))

        def measure(kind: str) -> dict[str, float]:
            # Its memory went to the others since its last turn: one decode gets it back, the next one counts.
            answer = self.ask(kind, "measure", untimed=1, **clip) if kind in self._peers else None
            return answer or {"seconds": math.nan, "peak_bytes": math.nan}

        found = run_rounds(list(warm_up_s), rounds, measure)
        figures = {"rounds": float(rounds)}
        return {
            kind: each | {"warm_up_s": warm_up_s[kind]} | figures for kind, each in found.items() if kind in self._peers
        }

    def _cap_s(self, kind: str) -> float:
        remaining_s = max(_RESERVE_S, self._plan.remaining_s())
        return min(self._plan.compile_cap_s, remaining_s) if kind == _LATE else remaining_s


def decode_table(
    found: dict[str, dict[str, float]], errors: dict[str, dict[str, float]], flop: float, rate: float
) -> str:
    """One row a contender.

    Args:
        found: figures of `DecodeBench.size`.
        errors: those of `DecodeBench.errors`.
        flop: arithmetic of the clip.
        rate: FLOP/s of the card's matrix product, NaN if not measured.
    """

    def times(rival: str, seconds: float) -> str:
        return f"{found[rival]['seconds'] / seconds:.2f}x" if rival in found else "-"

    rows = []
    for kind, each in found.items():
        seconds, error = each["seconds"], errors.get(kind, {})
        rows.append(
            [
                CONTENDERS[kind],
                seconds,
                f"{each['spread']:.2f}x",
                flop / seconds / 1e12,
                "-" if math.isnan(rate) else f"{flop / seconds / rate:.0%}",
                each["peak_bytes"] / 1e9 or math.nan,
                times("diffusers", seconds),
                times("fastvae", seconds),
                f"{error['relative']:.2e}" if error else "-",
                error.get("psnr_db", math.nan),
                each["warm_up_s"],
            ]
        )
    heads = [
        "",
        "seconds",
        "±",
        "TFLOP/s",
        "of the matrix rate",
        "peak, GB",
        "as fast as diffusers",
        "as fast as fastvae",
        "relative error",
        "PSNR, dB",
        f"first {_WARM_UPS} decodes, s",
    ]
    return table(heads, rows)


def run_decode(plan: DecodePlan, results: Results) -> None:
    """Measure errors, then every size, from the second on with the fastest of ours; add a table for each.

    The tables come twice: without the compiled one, and with it.
    """
    clips = [{"latents": plan.latents, "height": height, "width": width} for height, width in plan.sizes]
    error_clip = clips[0] | {"latents": min(_ERROR_LATENTS, plan.latents)}
    found: list[dict[str, dict[str, float]]] = [{} for _ in clips]
    with contextlib.ExitStack() as stack:
        path = str(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))) / "frames.pt")
        bench = DecodeBench(plan, stack)
        rate, flops = bench.count(clips)
        reference = bench.save_reference(error_clip, path)
        errors: dict[str, dict[str, float]] = {}
        results.figures |= {"matrix_flop_per_s": rate, "error_clip": error_clip, "reference": reference}
        results.figures |= {"errors": errors, "failed": bench.failed, "flop": flops, "sizes": found}
        for late in (False, True):
            if not bench.running(late=late):
                continue
            if reference is not None:
                errors |= bench.errors(error_clip, path, late=late)
            for clip, times in zip(clips, found, strict=True):
                times |= bench.times(clip, late=late)
                bench.keep_fastest({} if late else times)
            results.paragraphs.clear()
            if not math.isnan(rate):
                results.say(f"Matrix product of 8192 x 8192 in bfloat16: {rate / 1e12:.0f} TFLOP/s.")
            for clip, flop, times in zip(clips, flops, found, strict=True):
                results.say(
                    f"`{plan.model}`, {plan.latents} latents, {clip['height']}x{clip['width']}, {flop / 1e12:.3g} "
                    f"TFLOP; medians of {min((each['rounds'] for each in times.values()), default=0):g} rounds:"
                )
                results.say(decode_table(times, errors, flop, rate))
            if reference is not None:
                results.say(
                    f"Errors: {error_clip['latents']} latents at {error_clip['height']}x{error_clip['width']} against "
                    f"diffusers in float32 without TF32; its frames have a standard deviation of "
                    f"{reference['std']:.2f} and {reference['clamped']:.2%} of the values at -1 or 1."
                )
            for kind, reason in bench.failed.items():
                results.say(f"Not measured: {CONTENDERS.get(kind, kind)} ({reason}).")
