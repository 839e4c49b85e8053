"""A device that does its work late and in jumps, to show that the worker waits wherever it must.

Work that is put on a stream is only queued. `advance` runs queued work in an order that a chooser picks, as far as
the events allow; `Event.synchronize` advances until its point is reached. Reading an inlet slot too late, reusing
staging memory or publishing a slot too early all show as wrong frames.
"""

from collections import deque
from collections.abc import Callable

import torch

from framehaul_pipeline.device.streams import Event, Stream
from framehaul_pipeline.rings.ring import Ring


class SimulatedEvent:
    def __init__(self, device: "SimulatedDevice") -> None:
        self._device = device
        self.reached = False

    def synchronize(self) -> None:
        while not self.reached:
            assert self._device.advance(), "the streams wait for each other"

    def query(self) -> bool:
        return self.reached

    def ns_after(self, earlier: Event) -> int:
        return 0


class SimulatedStream:
    def __init__(self, device: "SimulatedDevice") -> None:
        self._device = device
        self._queue: deque[Callable[[], None] | tuple[str, SimulatedEvent]] = deque()

    def run(self, work: Callable[[], None]) -> None:
        self._queue.append(work)

    def record(self, *, timed: bool = False) -> Event:
        event = SimulatedEvent(self._device)
        self._queue.append(("record", event))
        return event

    def wait(self, event: Event) -> None:
        assert isinstance(event, SimulatedEvent)
        self._queue.append(("wait", event))

    @property
    def can_run(self) -> bool:
        if not self._queue:
            return False
        head = self._queue[0]
        return not (isinstance(head, tuple) and head[0] == "wait" and not head[1].reached)

    def run_one(self) -> None:
        head = self._queue.popleft()
        if isinstance(head, tuple):
            if head[0] == "record":
                head[1].reached = True
        else:
            head()


class SimulatedDevice:
    torch_device = torch.device("cpu")
    name = "simulated"
    memory_bytes = 0
    long_chunk_bytes: int | None = None

    def __init__(self, choose: Callable[[int], int]) -> None:
        """`choose(n)` picks one of n streams that can run."""
        self._choose = choose
        self._streams: list[SimulatedStream] = []

    def stream(self) -> Stream:
        self._streams.append(SimulatedStream(self))
        return self._streams[-1]

    def run_first(self, order: tuple[int, ...]) -> None:
        """Prefer streams in this order, by their number of creation, and the others after them."""
        rest = [stream for number, stream in enumerate(self._streams) if number not in order]
        self._streams = [self._streams[number] for number in order] + rest

    def advance(self) -> bool:
        """Run one piece of work; False when there is none that can run."""
        ready = [stream for stream in self._streams if stream.can_run]
        if not ready:
            return False
        ready[self._choose(len(ready))].run_one()
        return True

    def attach(self, ring: Ring) -> torch.Tensor:
        return torch.frombuffer(ring.memory, dtype=torch.uint8)

    def detach(self, ring: Ring) -> None:
        pass

    def pinned(self, num_bytes: int) -> torch.Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def free_bytes(self) -> int | None:
        return None

    def release_cached(self) -> None:
        pass

    def models_loaded(self) -> None:
        pass

    def hold_host_memory(self, session_bytes: int) -> None:
        pass

    def healthy(self) -> bool:
        return True
