"""The worker process, started by the supervisor alone, through `start`.

Owns the process: the threads that run `worker.Worker`, and the way out. The server's end of the socketpair
decides when it stops: a `Shutdown` message, or end-of-file when the server is gone.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable
from typing import Final

from framehaul import logs
from framehaul_pipeline import core_dumps
from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.decoders.engine.convolution import open_plans
from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.device.devices import open_device
from framehaul_pipeline.device.host_memory import total_bytes
from framehaul_pipeline.device.streams import Device
from framehaul_pipeline.embedding.clip import ClipEmbedder
from framehaul_pipeline.embedding.embedder import Embedder
from framehaul_pipeline.errors import PipelineError
from framehaul_pipeline.link.channel import WorkerChannel
from framehaul_pipeline.link.heirloom import Heirloom
from framehaul_pipeline.link.messages import Begin, Configure, Ready, RecordKernels, Shutdown, ToWorker
from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.scheduling.memory import MemoryLimits
from framehaul_pipeline.worker.highlights import BatchInFlight, BatchJob, Highlights
from framehaul_pipeline.worker.kernels import begin_recording
from framehaul_pipeline.worker.launch import InFlight
from framehaul_pipeline.worker.warm_up import warm_up
from framehaul_pipeline.worker.worker import Worker

EXIT_FAULT: Final = 70
"""A thread met an error it can't recover from (sysexits.h: EX_SOFTWARE)."""
_STOP_TIMEOUT_S: Final = 10.0

_log = logging.getLogger(__name__)


def main() -> int:
    """Wait to be told what to be, then serve until the server says stop or goes away."""
    core_dumps.forbid()
    logs.configure(os.environ.get(logs.LEVEL_VARIABLE, "info"))
    channel = WorkerChannel(socket.socket(fileno=int(sys.argv[1])))
    for module in sys.argv[2:]:
        try:
            importlib.import_module(module)
        except Exception as error:  # whoever can't do without it fails later
            _log.warning("standby can't import module=%s: %s: %s", module, type(error).__name__, error)
    _log.info("worker process imported pid=%d", os.getpid())
    configured = channel.receive_configure()
    if configured is None:
        return 0
    configure, (ring_fd, inlet_fd, heirloom_fd, *samples_fd) = configured
    config = configure.config
    ring = Ring(ring_fd, num_slots=config.num_slots, slot_bytes=config.slot_bytes)
    inlet = Ring(inlet_fd, num_slots=config.num_inlet_slots, slot_bytes=config.inlet_slot_bytes)
    try:
        device = open_device(config.device)
        plans = open_plans(device.torch_device, Heirloom(heirloom_fd))
        limits = MemoryLimits.of(config, own_memory=bool(device.memory_bytes), host_bytes=total_bytes())
        decoders = {model.spec.name: load_decoder(model, device.torch_device, plans) for model in config.models}
        worker = Worker(
            device,
            ring,
            inlet,
            decoders,
            chunk_latents=config.chunk_latents,
            limits=limits,
            send=channel.send,
            highlights=_highlights(config, device, samples_fd, channel),
        )
        worker.before_serving(
            lambda: warm_up(
                decoders.values(),
                device.torch_device,
                config.warm_up,
                chunk_latents=config.chunk_latents,
                slot_bytes=config.slot_bytes,
                room_bytes=lambda: limits.device_total(device.free_bytes() if device.memory_bytes else None),
            )
        )
        if plans is not None:
            plans.settle()
    except PipelineError as error:
        _log.error("worker can't start: %s", error)
        return EXIT_FAULT
    except Exception:
        models = ",".join(model.spec.name for model in config.models)
        _log.exception("worker can't start device=%s models=%s", config.device, models)
        return EXIT_FAULT
    specs = tuple(decoder.spec for decoder in decoders.values())
    channel.send(Ready(device=device.name, memory_bytes=device.memory_bytes, specs=specs))
    _log.info("worker ready pid=%d epoch=%d device=%s", os.getpid(), configure.epoch, json.dumps(device.name))
    _serve(worker, channel)
    return 0


def _highlights(config: WorkerConfig, device: Device, fds: list[int], channel: WorkerChannel) -> Highlights | None:
    if config.embedding is None:
        return None
    samples = Ring(fds[0], num_slots=config.num_sample_slots, slot_bytes=config.sample_slot_bytes)
    embedder = ClipEmbedder if config.embedding.clip else Embedder
    return Highlights(device, samples, embedder(config.embedding, device.torch_device), send=channel.send)


def _serve(worker: Worker, channel: WorkerChannel) -> None:
    """Run the threads. One that waits holds nothing of what it did last: a closed session's state would live on."""
    launched: queue.SimpleQueue[InFlight | BatchInFlight | None] = queue.SimpleQueue()
    completed: queue.SimpleQueue[InFlight | None] = queue.SimpleQueue()

    begun = threading.Event()

    def control() -> None:
        while (message := channel.receive()) is not None and not isinstance(message, Shutdown):
            _hear(message, worker, channel, begun)
        # If the device hangs, the other threads never end.
        watchdog = threading.Timer(_STOP_TIMEOUT_S, os._exit, (EXIT_FAULT,))
        watchdog.daemon = True
        watchdog.start()
        worker.stop()
        begun.set()

    def completion() -> None:
        _complete_all(worker, launched, completed)

    def checksum() -> None:
        while (flight := completed.get()) is not None:
            worker.publish(flight)
            del flight

    threads = [
        threading.Thread(target=_fatal, args=(target,), name=target.__name__, daemon=True)
        for target in (control, completion, checksum)
    ]
    for thread in threads:
        thread.start()

    def launch() -> None:
        # A session that an earlier worker died at work for must be alone at work, while it is let in as well.
        begun.wait()
        while (job := worker.next_job(wait=True)) is not None:
            flight = worker.run_batch(job) if isinstance(job, BatchJob) else worker.run(job)
            if flight is not None:
                launched.put(flight)
            del job, flight
        launched.put(None)

    _fatal(launch)
    for thread in threads:
        thread.join()
    worker.drain()


def _complete_all(
    worker: Worker,
    launched: queue.SimpleQueue[InFlight | BatchInFlight | None],
    completed: queue.SimpleQueue[InFlight | None],
) -> None:
    while (flight := launched.get()) is not None:
        if isinstance(flight, BatchInFlight):
            worker.complete_batch(flight)
        else:
            worker.complete(flight)
            completed.put(flight)
        del flight
    completed.put(None)


def _hear(message: ToWorker, worker: Worker, channel: WorkerChannel, begun: threading.Event) -> None:
    match message:
        case Configure() | Shutdown():
            raise ValueError(f"{type(message).__name__} came where it can't")
        case Begin():
            begun.set()
        case RecordKernels():
            begin_recording(message.seconds, channel.send)
        case _:
            worker.apply(message)


def _fatal(target: Callable[[], None]) -> None:
    """Run a thread's function; an error in any of them ends the process, and the supervisor starts a new one."""
    try:
        target()
    except BaseException:
        _log.exception("worker fault thread=%s", target.__name__)
        logging.shutdown()
        os._exit(EXIT_FAULT)
