"""One optimisation step, compiled and recorded as a CUDA graph where that can be had."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from framehaul_pipeline.decoders.tiny import TinyDecoderNet
from framehaul_pipeline.encode.tiny_encoder import TinyEncoderNet
from training.batches import Feeder
from training.loss import loss_and_gradients, reconstruction_loss
from training.optimiser import Optimiser

log = logging.getLogger("training")

WARM_UP_RATE = 1e-5


class TrainingStep:
    """Loss, gradients and update on the batch that the feeder holds."""

    def __init__(self, decoder: TinyDecoderNet, encoder: TinyEncoderNet, optimiser: Optimiser, feeder: Feeder) -> None:
        """Compile and record; each falls back to running plainly, with a warning."""
        self._decoder, self._encoder, self._optimiser, self._feeder = decoder, encoder, optimiser, feeder
        device = feeder.frames.device
        size, batch = feeder.frames.shape[-1], feeder.batch
        dtype = torch.bfloat16
        self._decoder_state = decoder.zero_state(batch, size, size, device=device, dtype=dtype)
        self._encoder_state = encoder.zero_state(batch, size, size, device=device, dtype=dtype)
        self._loss: Callable[..., tuple[Tensor, Tensor]] = reconstruction_loss
        self.run: Callable[[], Tensor] = self._step
        if device.type == "cuda":
            before = copy.deepcopy(optimiser.state_dict())
            self._compile()
            self._record()
            optimiser.load_state_dict(before)

    def _step(self) -> Tensor:
        """Run eagerly: `[3]` loss, mean squared error and gradient norm."""
        inputs = (self._feeder.frames, self._decoder_state, self._encoder_state, self._feeder.noise)
        loss, squared_error, gradients = loss_and_gradients(
            self._decoder, self._encoder, self._optimiser.parameters, inputs, self._loss
        )
        return torch.stack([loss, squared_error, self._optimiser.step(gradients)])

    def _compile(self) -> None:
        self._loss = torch.compile(reconstruction_loss, dynamic=False)
        try:
            self._warm_up(1)
        except Exception:
            # Whatever the compiler trips over, the plain step gives the same weights, later.
            log.exception("compiling failed, going on without")
            self._loss = reconstruction_loss

    def _record(self) -> None:
        self._warm_up(3)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                figures = self._step()
        except RuntimeError:
            log.exception("recording failed, going on without")
            torch.cuda.synchronize()
            return

        def replay() -> Tensor:
            graph.replay()
            return figures

        self.run = replay

    def _warm_up(self, count: int) -> None:
        """Take steps on a side stream, as recording a graph wants."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(count):
                self._optimiser.set_rate(WARM_UP_RATE)
                self._feeder.advance()
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
