"""The resume rule, with every loss in it: see `tests/resume_model.py` for what is real and what isn't."""

from enum import Enum

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.resume_model import MEMORY, NO_END, PICTURE_FIRST, WINDOW, Client, Link, Server, expected


class Fault(Enum):
    """What can break, and what makes up for it."""

    CUT = "both ends notice, and what was under way is lost"
    HALF_OPEN = "the client notices; to the server the link looks fine, and what was under way may still come"
    NOTICE = "the server notices such a link at last"
    KILL_WORKER = "the next one isn't there yet"
    START_WORKER = "here it is"
    REPLACE_SERVER = "killed, and another one takes its address"
    EXPIRE = "the resume window is over"


class Resume(RuleBasedStateMachine):
    """Whatever breaks, and whenever, the client has a prefix of the clip; and the whole of it once nothing breaks."""

    spec = MEMORY

    def __init__(self) -> None:
        super().__init__()
        self.server = Server(self.spec)
        self.links: list[Link] = []
        """All that the server hasn't noticed the end of."""

    @initialize(num_latents=st.integers(1, 12))
    def begin(self, num_latents: int) -> None:
        self.client = Client(self.spec, num_latents)
        self.links.append(self.client.connect())

    # The client

    @precondition(lambda self: self.client.can_send_latent)
    @rule()
    def latent(self) -> None:
        self.client.send_latent()

    @precondition(lambda self: self.client.can_send_end)
    @rule()
    def end_of_latents(self) -> None:
        self.client.send_end()

    @rule(count=st.integers(1, 3))
    def consume(self, count: int) -> None:
        for _ in range(count):
            self.client.consume()

    @rule()
    def acknowledge(self) -> None:
        self.client.acknowledge()

    @precondition(lambda self: self.client.link is None and not self.client.finished)
    @rule()
    def connect(self) -> None:
        self.links.append(self.client.connect())

    # The server

    @precondition(lambda self: self.server.can_send)
    @rule()
    def send(self) -> None:
        self.server.send()

    @precondition(lambda self: self.server.worker is not None and self.server.worker.busy)
    @rule(size=st.integers(1, 3))
    def decode(self, size: int) -> None:
        assert self.server.worker is not None
        self.server.worker.decode(size)

    # The wire

    @precondition(lambda self: any(link.server_open and link.to_server for link in self.links))
    @rule(choice=st.integers(0, 3))
    def deliver_to_server(self, choice: int) -> None:
        """From any link that the server still holds open: an old one may go on delivering for a while."""
        links = [link for link in self.links if link.server_open and link.to_server]
        link = links[choice % len(links)]
        self.server.take(link, *link.to_server.popleft())

    @precondition(lambda self: self.client.link is not None and self.client.link.to_client)
    @rule()
    def deliver_to_client(self) -> None:
        assert self.client.link is not None
        self.client.take(*self.client.link.to_client.popleft())

    @precondition(lambda self: not self.client.finished)
    @rule(steps=st.integers(1, 12))
    def go_on(self, steps: int) -> None:
        """A while in which nothing breaks."""
        for _ in range(steps):
            if not self.client.finished:
                self._step()

    # What breaks

    @rule(fault=st.sampled_from(Fault))
    def break_something(self, fault: Fault) -> None:
        link = self.client.link
        closed = [each for each in self.links if not each.client_open]
        if fault is Fault.CUT and link is not None:
            self.client.hang_up()
            link.to_server.clear()
            self._notice(link)
        elif fault is Fault.HALF_OPEN and link is not None:
            self.client.hang_up()
        elif fault is Fault.NOTICE and closed:
            self._notice(closed[0])
        elif fault is Fault.KILL_WORKER:
            self.server.kill_worker()
        elif fault is Fault.START_WORKER and not self.server.worker_up:
            self.server.start_worker()
        elif fault is Fault.REPLACE_SERVER:
            self.server = Server(self.spec)
            self.links.clear()
            if link is not None:
                self.client.hang_up()
        elif fault is Fault.EXPIRE and self.server.link is None:
            self.server.drop()

    def _notice(self, link: Link) -> None:
        self.server.lose(link)
        self.links.remove(link)

    # What holds

    @invariant()
    def every_frame_once_in_order_and_right(self) -> None:
        if hasattr(self, "client"):
            assert self.client.frames == [expected(self.spec, frame) for frame in range(len(self.client.frames))]

    @invariant()
    def memory_is_bounded_by_the_window(self) -> None:
        if self.server.session is not None:
            assert self.server.session.num_held <= WINDOW

    @invariant()
    def one_connection_serves(self) -> None:
        if self.server.link is not None:
            assert self.server.link.server_open

    def teardown(self) -> None:
        """Once nothing breaks any more, the clip comes out whole."""
        if not hasattr(self, "client"):
            return
        self.server.start_worker()
        for _ in range(1000):
            if self.client.finished:
                break
            self._step()
        assert self.client.finished
        assert len(self.client.frames) == self.spec.num_frames(self.client.num_latents)
        self.every_frame_once_in_order_and_right()

    def _step(self) -> None:
        if self.client.link is None:
            self.links.append(self.client.connect())
        self.server.run(self.links)
        if self.server.worker is not None and self.server.worker.busy:
            self.server.worker.decode(2)
        link = self.client.link
        while link is not None and link.to_client and self.client.link is link:
            self.client.take(*link.to_client.popleft())
        if self.client.can_send_latent:
            self.client.send_latent()
        elif self.client.can_send_end:
            self.client.send_end()
        self.client.consume()
        self.client.consume()
        self.client.acknowledge()


class ResumeWithAPictureFirst(Resume):
    """The same for a decoder whose first latent gives fewer frames: later ones never do, wherever a decode starts."""

    spec = PICTURE_FIRST


class ResumeWithEndlessMemory(Resume):
    """The same for a decoder whose frames depend on all latents: nothing may be forgotten."""

    spec = NO_END


TestResume = Resume.TestCase
TestResume.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestResumeWithAPictureFirst = ResumeWithAPictureFirst.TestCase
TestResumeWithAPictureFirst.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestResumeWithEndlessMemory = ResumeWithEndlessMemory.TestCase
TestResumeWithEndlessMemory.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
