"""Trains `tiny`: `python -m training.train --media DIR --out DIR`.

Started again with the same `--out`, a run goes on from its last checkpoint. Seeds are fixed. On a GPU, loss and
gradients are compiled and the whole step is one CUDA graph; where either can't be had, the step runs without it.
"""

from __future__ import annotations

import argparse
import ast
import logging
import math
import random
import time
from pathlib import Path
from typing import Any, Final

import torch

from framehaul_pipeline.decoders.tiny import TinyDecoderNet
from framehaul_pipeline.encode.tiny_encoder import TinyEncoderNet
from training.batches import Feeder, FilmCrops
from training.export import export
from training.media import Bank, read_film
from training.optimiser import Optimiser
from training.step import TrainingStep
from training.synthesis import Dice

log = logging.getLogger("training")

SEED: Final = 1
PEAK_RATE: Final = 2e-3
WARM_UP_STEPS: Final = 300
AVERAGE_EVERY: Final = 8
STEPS: Final = 27_400


class Run:
    """One training run: networks, optimiser, feed, and where it stands."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device) -> None:
        """Load the media and build everything, then read the checkpoint if there is one."""
        torch.manual_seed(SEED)
        random.seed(SEED)
        self.arguments, self.device = arguments, device
        self.decoder, self.encoder = TinyDecoderNet().to(device), TinyEncoderNet().to(device)
        for net in (self.decoder, self.encoder):
            net.to(memory_format=torch.channels_last)
        self.optimiser = Optimiser([*self.decoder.parameters(), *self.encoder.parameters()])
        dice = Dice(device)
        film = FilmCrops(read_film(arguments.media, "train"), dice)
        bank = Bank.load(arguments.media, device, test=False, num_made=arguments.num_textures)
        log.info("media: tiles %s", bank.counts)
        self.feeder = Feeder(film, bank, dice, batch=arguments.batch, frames=arguments.frames, size=arguments.crop)
        self.step_index, self.elapsed_s = 0, 0.0
        self._checkpoint = arguments.out / "checkpoint.pt"
        if self._checkpoint.exists():
            self._load()

    @property
    def progress(self) -> float:
        """From 0 to 1, by steps or, where a time is set, by time."""
        by_steps: float = self.step_index / self.arguments.steps
        by_time = self.elapsed_s / self.arguments.seconds if self.arguments.seconds else 0.0
        return min(1.0, max(by_steps, by_time))

    @property
    def rate(self) -> float:
        """Learning rate of the next step: a warm-up, then a cosine down to almost nothing."""
        warm_up = min(1.0, (self.step_index + 1) / WARM_UP_STEPS)
        return PEAK_RATE * warm_up * (0.5 + 0.5 * math.cos(math.pi * self.progress)) + 1e-6

    def train(self) -> None:
        """Step until done, with a line of figures and a checkpoint now and then."""
        step = TrainingStep(self.decoder, self.encoder, self.optimiser, self.feeder)
        begun, before_s = time.monotonic(), self.elapsed_s
        report_s = checkpoint_s = before_s
        shown: list[torch.Tensor] = []
        while self.progress < 1:
            self.optimiser.set_rate(self.rate)
            self.feeder.advance()
            figures = step.run()
            self.step_index += 1
            if self.step_index % AVERAGE_EVERY == 0:
                self.optimiser.average_in(0.99 if self.progress > 0.5 else 0.95)
            if self.step_index % 32 == 0:
                shown.append(figures.clone())
                if self.device.type == "cuda":
                    torch.cuda.synchronize()  # else the host queues minutes of work and the clock below means nothing
            self.elapsed_s = before_s + time.monotonic() - begun
            if shown and self.elapsed_s - report_s > self.arguments.report_s:
                loss, squared_error, norm = torch.stack(shown).mean(0).tolist()
                log.info(
                    "step %d (%.1f/s) loss %.4f, training PSNR %.2f dB, gradient %.2f",
                    self.step_index, self.step_index / self.elapsed_s, loss, 10 * math.log10(4 / squared_error), norm,
                )  # fmt: skip
                shown, report_s = [], self.elapsed_s
            if self.elapsed_s - checkpoint_s > self.arguments.checkpoint_s:
                self._save()
                checkpoint_s = self.elapsed_s
        self._save()

    def export(self, path: Path) -> None:
        """Write the averaged weights as float16."""
        with torch.no_grad():
            for parameter, average in zip(self.optimiser.parameters, self.optimiser.average, strict=True):
                parameter.copy_(average)
        export(path, self.decoder, self.encoder, steps=self.step_index)

    def _save(self) -> None:
        state: dict[str, Any] = {
            "optimiser": self.optimiser.state_dict(),
            "step_index": self.step_index,
            "elapsed_s": self.elapsed_s,
            "torch_rng": torch.get_rng_state(),
            "python_rng": repr(random.getstate()),
        }
        if self.device.type == "cuda":
            state["device_rng"] = torch.cuda.get_rng_state(self.device)
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._checkpoint)

    def _load(self) -> None:
        state = torch.load(self._checkpoint, map_location=self.device, weights_only=True)
        self.optimiser.load_state_dict(state["optimiser"])
        self.step_index, self.elapsed_s = state["step_index"], state["elapsed_s"]
        torch.set_rng_state(state["torch_rng"].cpu())
        random.setstate(ast.literal_eval(state["python_rng"]))
        if self.device.type == "cuda" and "device_rng" in state:
            torch.cuda.set_rng_state(state["device_rng"].cpu(), self.device)
        log.info("resumed at step %d", self.step_index)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="training.train", description="Train the built-in model `tiny`.")
    parser.add_argument("--media", type=Path, required=True, help="folder made by training.prepare")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and tiny.safetensors")
    parser.add_argument("--steps", type=int, default=STEPS, help="length of the run (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.0, help="end the run earlier, after so long (0: don't)")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--frames", type=int, default=12, help="frames of a clip, a multiple of 4")
    parser.add_argument("--crop", type=int, default=128, help="side of a clip, a multiple of 8")
    parser.add_argument("--num-textures", type=int, default=60, help="pages of text, and of noise")
    parser.add_argument("--report-s", type=float, default=20.0)
    parser.add_argument("--checkpoint-s", type=float, default=60.0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train, or go on training, and write the weights."""
    arguments = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    arguments.out.mkdir(parents=True, exist_ok=True)
    run = Run(arguments, torch.device(arguments.device))
    run.train()
    run.export(arguments.out / "tiny.safetensors")


if __name__ == "__main__":
    main()
