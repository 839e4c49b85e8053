"""The devices a worker decodes on: CUDA, and the CPU with the same streams that run at once.

For the worker process alone. Runtime calls: CUDA Runtime API, cudaHostRegister.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

from framehaul_pipeline.device.host_memory import FRAGMENTATION, KeptMemory, available_bytes, trim
from framehaul_pipeline.device.streams import Device, Event, Stream
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.rings.ring import Ring


class _Done:
    def __init__(self) -> None:
        self._at_ns = time.monotonic_ns()

    def synchronize(self) -> None:
        return

    def query(self) -> bool:
        return True

    def ns_after(self, earlier: Event) -> int:
        assert isinstance(earlier, _Done)
        return self._at_ns - earlier._at_ns


class _CpuStream:
    def run(self, work: Callable[[], None]) -> None:
        work()

    def record(self, *, timed: bool = False) -> Event:
        return _Done()

    def wait(self, event: Event) -> None:
        return


class CpuDevice:
    """The CPU."""

    torch_device = torch.device("cpu")
    memory_bytes = 0
    long_chunk_bytes: int | None = 1 << 30

    def __init__(self) -> None:
        """Use the threads that torch uses."""
        self._kept = KeptMemory()
        self.name = f"cpu ({torch.get_num_threads()} threads)"

    def stream(self) -> Stream:
        """A stream whose work runs at once."""
        return _CpuStream()

    def attach(self, ring: Ring) -> torch.Tensor:
        """View the ring."""
        return torch.frombuffer(ring.memory, dtype=torch.uint8)

    def detach(self, ring: Ring) -> None:
        """Nothing to undo."""

    def pinned(self, num_bytes: int) -> torch.Tensor:
        """Any memory will do."""
        return torch.empty(num_bytes, dtype=torch.uint8)

    def free_bytes(self) -> int | None:
        """What the host has left, less what the allocator's gaps may take of it."""
        return available_bytes() // FRAGMENTATION

    def release_cached(self) -> None:
        """Give back what the allocator keeps."""
        trim()

    def models_loaded(self) -> None:
        """Note what is held without sessions."""
        self._kept = KeptMemory()

    def hold_host_memory(self, session_bytes: int) -> None:
        """See `KeptMemory`."""
        self._kept.hold(session_bytes)

    def healthy(self) -> bool:
        """A processor that runs this is."""
        return True


class _CudaEvent:
    def __init__(self, event: torch.cuda.Event) -> None:
        self.event = event

    def synchronize(self) -> None:
        self.event.synchronize()

    def query(self) -> bool:
        return bool(self.event.query())

    def ns_after(self, earlier: Event) -> int:
        assert isinstance(earlier, _CudaEvent)
        return int(earlier.event.elapsed_time(self.event) * 1e6)


class _CudaStream:
    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def run(self, work: Callable[[], None]) -> None:
        with torch.cuda.stream(self._stream):
            work()

    def record(self, *, timed: bool = False) -> Event:
        event = torch.cuda.Event(enable_timing=timed, blocking=True)
        event.record(self._stream)
        return _CudaEvent(event)

    def wait(self, event: Event) -> None:
        assert isinstance(event, _CudaEvent)
        self._stream.wait_event(event.event)


class CudaDevice:
    """One GPU, with the rings registered as pinned memory."""

    long_chunk_bytes: int | None = None

    def __init__(self, index: int) -> None:
        """Create the CUDA context of GPU `index`."""
        self.torch_device = torch.device("cuda", index)
        torch.cuda.set_device(self.torch_device)
        properties = torch.cuda.get_device_properties(self.torch_device)
        self.name = f"cuda:{index} {properties.name}"
        self.memory_bytes = properties.total_memory
        # Algorithms as the library's heuristics say, for each shape always the same: chosen by trial, they would differ
        # from one worker to the next, and with them the last bits of frames that are decoded again.
        torch.backends.cudnn.benchmark = False

    def stream(self) -> Stream:
        """A CUDA stream of its own."""
        return _CudaStream(self.torch_device)

    def attach(self, ring: Ring) -> torch.Tensor:
        """Register the ring's pages, so that copies run asynchronously at full speed.

        Raises:
            torch.cuda.CudaError: CUDA refuses to register the memory.
        """
        memory = torch.frombuffer(ring.memory, dtype=torch.uint8)
        _check(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.numel(), 0))
        return memory

    def detach(self, ring: Ring) -> None:
        """Unregister the ring's pages.

        Raises:
            torch.cuda.CudaError: CUDA refuses.
        """
        memory = torch.frombuffer(ring.memory, dtype=torch.uint8)
        _check(torch.cuda.cudart().cudaHostUnregister(memory.data_ptr()))

    def pinned(self, num_bytes: int) -> torch.Tensor:
        """Page-locked memory.

        Raises:
            RuntimeError: CUDA can't lock so much.
        """
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)

    def free_bytes(self) -> int | None:
        """What the driver has left, and what torch's allocator keeps and doesn't use."""
        free_bytes, _ = torch.cuda.mem_get_info(self.torch_device)
        cached_bytes = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(self.torch_device)
        return free_bytes + cached_bytes

    def release_cached(self) -> None:
        """Empty torch's cache; waits for the device."""
        torch.cuda.empty_cache()

    def models_loaded(self) -> None:
        """Weights came through the host's memory."""
        trim()

    def hold_host_memory(self, session_bytes: int) -> None:
        """Sessions are on the device, and in pinned pages that are counted."""

    def healthy(self) -> bool:
        """Whether the context still answers; after an error inside a kernel it never does again."""
        try:
            torch.cuda.synchronize(self.torch_device)
        except RuntimeError:
            return False
        return True


def _check(result: object) -> None:
    torch.cuda.check_error(int(result))  # type: ignore[call-overload]


def open_device(name: str) -> Device:
    """Open `auto` (the first GPU, else the CPU), `cpu`, `cuda` or `cuda:N`.

    Raises:
        InvalidInput: there is no such device here.
    """
    num_gpus = torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and num_gpus == 0):
        threads = os.environ.get("OMP_NUM_THREADS")
        if threads is None:
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        return CpuDevice()
    index = int(name[5:]) if name.startswith("cuda:") else 0
    if index >= num_gpus:
        raise InvalidInput("device", name, f"cpu, or one of the CUDA devices, of which PyTorch finds {num_gpus} here")
    return CudaDevice(index)
