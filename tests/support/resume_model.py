"""A client, a server and its worker as values, joined by links that lose what is under way: the resume rule at work.

The rule's own code runs here (the server's decoding, journal, retention and window; the client's window and its idea
of which latents it may forget); transport, tasks and time don't. A frame's value tells which latents it was made of,
so that a decode that lacks a past shows.
"""

from collections import deque
from dataclasses import dataclass, field

import msgspec
from crc32c import crc32c

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameLayout
from framehaul_client.core.opening import Opened
from framehaul_client.core.window import FrameWindow as ClientWindow
from framehaul_pipeline.errors import AtWork, InvalidInput, PipelineError, Unavailable, WorkerLost
from framehaul_pipeline.link.messages import Opening, Published
from framehaul_pipeline.spec import DecoderSpec
from framehaul_pipeline.supervision.epoch import SessionEvents
from framehaul_server.core.grant import LatentGrant
from framehaul_server.core.open_request import check_open
from framehaul_server.core.packing import Outgoing
from framehaul_server.core.retention import Retention
from framehaul_server.core.tenants import EVERYONE
from framehaul_server.core.window import FrameWindow, WindowLimits, allowed_latents
from framehaul_server.session.decoding import Decoding
from tests.support.fakes import SPEC, opening, published, rules

MEMORY = msgspec.structs.replace(SPEC, temporal_factor=2, first_frames=2, receptive_latents=3)
PICTURE_FIRST = msgspec.structs.replace(MEMORY, first_frames=1)
NO_END = msgspec.structs.replace(MEMORY, receptive_latents=None)
VALUE_BYTES = 8
WINDOW = 6
BUDGET = 4


def value_of(latents: list[int], frame: int) -> bytes:
    """A frame's value: its number, and the latents that it was made of."""
    return bytes([frame, *latents]).ljust(VALUE_BYTES, b"\xff")


def expected(spec: DecoderSpec, frame: int) -> bytes:
    """What a decode without a fault gives."""
    latent = next(index for index in range(frame + 1) if spec.num_frames(index + 1) > frame)
    return value_of(list(range(max(0, latent - 2), latent + 1)), frame)


class WorkerSession:
    """One session of a worker: as many latents back as it remembers, but none from before its start."""

    def __init__(self, spec: DecoderSpec, opening: Opening, events: SessionEvents) -> None:
        self.spec = spec
        self.first_latent = self.next_latent = opening.first_latent
        self.events = events
        self.planned = deque(opening.chunks)
        self.latents: list[int] = []
        self.num_allowed = 0
        self.ended = False
        self.told_end = False
        self.dead = False

    def send_latent(self, latent: memoryview) -> None:
        self.latents.append(latent[0])

    def allow(self, num_latents: int, *, num_wanted: int) -> None:
        self.num_allowed = max(self.num_allowed, num_latents)

    def end_latents(self) -> None:
        self.ended = True

    def drop(self) -> None:
        self.dead = True

    @property
    def num_ready(self) -> int:
        """Latents that may be decoded now."""
        return max(0, min(self.first_latent + len(self.latents), self.num_allowed) - self.next_latent)

    @property
    def busy(self) -> bool:
        return not self.dead and (self.num_ready > 0 or self.has_end)

    @property
    def has_end(self) -> bool:
        return self.ended and not self.told_end and self.next_latent == self.first_latent + len(self.latents)

    def decode(self, wanted: int) -> None:
        """Decode a chunk of at most `wanted` latents, or of what was planned; then say when that was all."""
        size = self.planned[0] if self.planned else min(wanted, self.num_ready)
        if 0 < size <= self.num_ready:
            if self.planned:
                self.planned.popleft()
            self._publish(size)
        if not self.dead and self.has_end:
            self.told_end = True
            self.events.on_ended(self.spec.num_frames(self.next_latent))

    def _publish(self, size: int) -> None:
        first_latent = self.next_latent
        number = first_frame = self.spec.num_frames(first_latent)
        values = []
        for latent in range(first_latent, first_latent + size):
            position = latent - self.first_latent
            made_of = self.latents[max(0, position - 2) : position + 1]
            for _ in range(self.spec.first_frames if latent == 0 else self.spec.temporal_factor):
                values.append(value_of(made_of, number))
                number += 1
        self.next_latent += size
        self.events.on_fed(self.next_latent)
        chunk = published(first_frame, 0, VALUE_BYTES, first_latent=first_latent, chunks=(size,))
        chunk = msgspec.structs.replace(chunk, crc32c=tuple(crc32c(value) for value in values))
        self.events.on_published(chunk, memoryview(b"".join(values)))


@dataclass
class Link:
    """A connection: what is under way on it is lost when it breaks."""

    to_server: deque[tuple[str, int]] = field(default_factory=deque)
    to_client: deque[tuple[str, int, bytes]] = field(default_factory=deque)
    client_open: bool = True
    server_open: bool = True


class ServerSession:
    """What a server knows of the session."""

    def __init__(self, server: "Server", start_frame: int, window_frames: int) -> None:
        open_message = opening(start_frame=start_frame)
        self.request = check_open(open_message, rules(spec=server.spec).opening)
        self.limits = WindowLimits(min_frames=self.request.spec.temporal_factor, max_frames=WINDOW)
        self.window = FrameWindow(self.limits, initial_frames=window_frames, first_frame=start_frame)
        self.retention = Retention(start_frame)
        self.grant = LatentGrant(BUDGET, self.request.first_latent)
        self.outbox: deque[Outgoing] = deque()
        self.next_latent = self.request.first_latent
        self.ended = False
        self.confirmed = False
        self.error: PipelineError | None = None
        self.decoding = Decoding(server, self.request, EVERYONE, self, journal_bytes=1000)
        self.decoding.start()
        self.allow()

    def allow(self) -> None:
        num_latents = self.next_latent if self.ended else None
        self.decoding.allow(allowed_latents(self.request.spec, self.window.frames_until, num_latents), num_wanted=0)

    def on_fed(self, num_fed: int) -> None:
        self.grant.fed(num_fed)
        self.outbox.append(Outgoing(message=b""))

    def on_published(self, published: Published, frames: memoryview) -> None:
        # Copied, one frame a message.
        for index in range(published.num_frames):
            value = bytes(frames[index * VALUE_BYTES : (index + 1) * VALUE_BYTES])
            self.outbox.append(Outgoing(message=value, first_frame=published.first_frame + index, num_frames=1))

    def on_ended(self, num_frames: int) -> None:
        self.outbox.append(Outgoing(message=bytes([num_frames]), last=True))

    def on_failed(self, error: PipelineError) -> None:
        self.error = error

    @property
    def num_held(self) -> int:
        """Frames that are kept or wait."""
        return sum(outgoing.num_frames for outgoing in (*self.retention._kept, *self.outbox))


class Server:
    """One server process and its worker."""

    def __init__(self, spec: DecoderSpec) -> None:
        self.spec = spec
        self.specs: tuple[DecoderSpec, ...] = (spec,)
        self.session: ServerSession | None = None
        self.link: Link | None = None
        """The connection that serves the session."""
        self.worker: WorkerSession | None = None
        self.worker_up = True

    def open_session(self, opening: Opening, events: SessionEvents) -> WorkerSession:
        if not self.worker_up:
            raise Unavailable("no worker")
        self.worker = WorkerSession(self.spec, opening, events)
        return self.worker

    def kill_worker(self) -> None:
        worker, self.worker, self.worker_up = self.worker, None, False
        if worker is not None and not worker.dead:
            worker.dead = True
            worker.events.on_failed(WorkerLost(at_work=AtWork.ALONE))

    def start_worker(self) -> None:
        self.worker_up = True
        if self.session is not None:
            self.session.decoding.worker_ready()

    def lose(self, link: Link) -> None:
        """Notice that a connection is gone."""
        link.server_open = False
        if self.link is link:
            self.link = None
            if self.session is not None and not self.session.confirmed:
                self.drop()

    def drop(self) -> None:
        if self.session is not None:
            self.session.decoding.drop()
        self.session = self.link = None

    def take(self, link: Link, kind: str, number: int) -> None:
        """Take a client's message from the wire."""
        if kind == "resume":
            self._resume(link, number)
            return
        if kind in ("open", "start"):
            if not link.client_open:
                return  # a session of its own that nobody ever hears of
            if not self.worker_up:
                link.to_client.append(("unavailable", 0, b""))
                return
            self.drop()
            self.session = ServerSession(self, number if kind == "start" else 0, WINDOW if kind == "open" else 2)
            self._attach(link)
            return
        session = self.session
        if self.link is not link or session is None:
            return
        session.confirmed = True
        if kind == "latent":
            assert number == session.next_latent, "the client sends on from where it was told"
            assert number < session.grant.until, "within the grant"
            session.next_latent += 1
            session.decoding.send_latent(memoryview(bytes([number])))
        elif kind == "end":
            if not session.ended:
                session.ended = True
                session.decoding.end_latents()
                session.allow()
        else:
            session.window.ack(number, WINDOW, num_sent=session.retention.num_sent)
            session.retention.acknowledge(number)
            session.allow()
            if session.retention.complete:
                self.drop()

    def _resume(self, link: Link, next_frame: int) -> None:
        if self.session is None or self.session.error is not None:
            self.drop()
            link.to_client.append(("unknown", 0, b""))
            return
        old = self.link
        if old is not None and old is not link:
            old.server_open = False
            old.to_server.clear()
            old.to_client.append(("unavailable", 0, b""))
            self.link = None
        try:
            again = self.session.retention.rewind(next_frame)
        except InvalidInput:
            assert not link.client_open, "only an old connection can ask for what was acknowledged"
            return
        self.session.outbox.extendleft(reversed(again))
        self._attach(link)

    def _attach(self, link: Link) -> None:
        assert self.session is not None
        self.link = link
        opened = bytes([self.session.next_latent, self.session.grant.until])
        link.to_client.append(("opened", 0, opened))

    def send(self) -> None:
        """Write the next response."""
        session, link = self.session, self.link
        assert session is not None
        assert link is not None
        outgoing = session.outbox.popleft()
        session.retention.sent(outgoing, keep=True)
        kind = "done" if outgoing.last else "frame" if outgoing.num_frames else "grant"
        link.to_client.append((kind, outgoing.first_frame, bytes([session.grant.until]) + outgoing.message))

    def run(self, links: list[Link]) -> None:
        """Do all that can be done now."""
        for link in links:
            while link.server_open and link.to_server:
                self.take(link, *link.to_server.popleft())
        while self.can_send:
            self.send()

    @property
    def can_send(self) -> bool:
        return self.session is not None and self.link is not None and bool(self.session.outbox)


class Client:
    """The reference client's rule."""

    def __init__(self, spec: DecoderSpec, num_latents: int) -> None:
        self.spec = spec
        self.agreed = Opened(
            session_id=b"",
            model=spec.name,
            layout=FrameLayout(pixel_format=PixelFormat.RGB24, height=1, width=1),
            first_frames=spec.first_frames,
            temporal_factor=spec.temporal_factor,
            period_latents=0,
            lookahead_latents=spec.lookahead_latents,
            window_frames=WINDOW,
            min_window_frames=spec.temporal_factor,
            next_latent=0,
            history_latents=spec.history_latents,
            reproducible=False,
        )
        self.num_latents = num_latents
        self.frames: list[bytes] = []
        self.window = ClientWindow(WINDOW)
        self.link: Link | None = None
        self.known = False
        """There is a session to be resumed."""
        self.started = False
        self.ready = False
        """This connection's `Opened` has come."""
        self.next_latent = 0
        self.until = 0
        self.kept_from = 0
        self.sent_all = False
        self.finished = False

    def connect(self) -> Link:
        self.link = Link()
        self.ready = False
        if self.known:
            self.link.to_server.append(("resume", len(self.frames)))
        elif self.started:
            self.link.to_server.append(("start", len(self.frames)))
        else:
            self.link.to_server.append(("open", 0))
        return self.link

    def take(self, kind: str, number: int, payload: bytes) -> None:
        assert self.link is not None
        if kind == "unavailable":
            self.hang_up()
        elif kind == "unknown":
            self.known = False
            self.hang_up()
            if self.sent_all and len(self.frames) == self.spec.num_frames(self.num_latents):
                self.finished = True
        elif kind == "opened":
            if not self.known and self.started:
                self.window.reopen(2)
            self.known = self.started = self.ready = True
            self.next_latent, self.until = payload
            assert self.next_latent >= self.kept_from, "latents that were forgotten are not asked for"
            self.link.to_server.append(("ack", self.window.repeat().next_frame))
        elif kind == "grant":
            self.until = max(self.until, payload[0])
        elif kind == "frame":
            assert number == len(self.frames), "every frame once, in order"
            self.window.receive(1)
            self.frames.append(payload[1:])
            self.until = max(self.until, payload[0])
            self.kept_from = max(self.kept_from, self.agreed.first_latent_needed(number + 1))
        else:
            assert payload[1] == len(self.frames)
            self.finished = True
            self.link.to_server.append(("ack", len(self.frames)))

    def hang_up(self) -> None:
        assert self.link is not None
        self.link.client_open = False
        self.link = None

    @property
    def can_send_latent(self) -> bool:
        return self.ready and self.link is not None and self.next_latent < min(self.until, self.num_latents)

    @property
    def can_send_end(self) -> bool:
        return self.ready and self.link is not None and self.next_latent == self.num_latents

    def send_latent(self) -> None:
        assert self.link is not None
        assert self.next_latent >= self.kept_from
        self.link.to_server.append(("latent", self.next_latent))
        self.next_latent += 1

    def send_end(self) -> None:
        assert self.link is not None
        self.sent_all = True
        self.link.to_server.append(("end", 0))

    def consume(self) -> None:
        if self.window.num_waiting:
            self.window.consume(1)

    def acknowledge(self) -> None:
        acknowledgement = self.window.acknowledge(idle=True)
        if acknowledgement is not None and self.link is not None and self.ready:
            self.link.to_server.append(("ack", acknowledgement.next_frame))
