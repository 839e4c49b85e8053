"""The resume rule, with every loss in it: see `tests/support/resume_model.py` for what is real and what isn't."""

from enum import Enum

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.resume_model import MEMORY, NO_END, PICTURE_FIRST, WINDOW, Client, Link, Server, expected


class Fault(Enum):
    """What can break, and what makes up for it."""

    CUT = "both ends notice, and what was under way is lost"
    HALF_OPEN = "the client notices; to the server the link looks fine, and what was under way may still come"
    OVERTAKEN = "half open, and the client's next connection is there before what was under way on the old one"
    NOTICE = "the server notices such a link at last"
    KILL_WORKER = "the next one isn't there yet"
    START_WORKER = "here it is"
    REPLACE_WORKER = "killed, and the next one is there at once"
    REPLACE_SERVER = "killed, and another one takes its address"
    EXPIRE = "the resume window is over"


class Move(Enum):
    """What goes on by itself, a step at a time."""

    LATENT = "the client sends one"
    END = "the client says that all were sent"
    CONSUME = "the application takes a frame"
    ACKNOWLEDGE = "the client says so"
    CONNECT = "the client, when it has no connection"
    SEND = "the server writes a response"
    DECODE = "the worker, a chunk"
    DELIVER_TO_SERVER = "from any link that it still holds open: an old one may go on delivering for a while"
    DELIVER_TO_CLIENT = "a response arrives"
    SERVE = "the server takes all and sends all, and nothing arrives yet"
    GO_ON = "all of these, as far as they go"


MOVES = st.sampled_from(
    [*Move, *[Move.GO_ON] * 8, *[Move.SERVE] * 3, *Fault, *[Fault.CUT] * 3, *[Fault.REPLACE_WORKER] * 2]
)


class Resume(RuleBasedStateMachine):
    """Whatever breaks, and whenever, the client has a prefix of the clip; and the whole of it once nothing breaks."""

    spec = MEMORY

    def __init__(self) -> None:
        super().__init__()
        self.server = Server(self.spec)
        self.links: list[Link] = []
        """All that the server hasn't noticed the end of."""

    @initialize(num_latents=st.sampled_from([1, 1, 2, 3, 4, 6, 8, 12]))
    def begin(self, num_latents: int) -> None:
        self.client = Client(self.spec, num_latents)
        self.links.append(self.client.connect())

    @rule(move=MOVES, count=st.integers(1, 4))
    def go(self, move: "Move | Fault", count: int) -> None:
        """One rule for all: of many, hypothesis leaves most out of each sequence, and little comes together."""
        if isinstance(move, Fault):
            self.break_something(move)
        else:
            for _ in range(count):
                self._move(move, count)

    def _move(self, move: Move, count: int) -> None:
        client, server = self.client, self.server
        if move is Move.LATENT and client.can_send_latent:
            client.send_latent()
        elif move is Move.END and client.can_send_end:
            client.send_end()
        elif move is Move.CONSUME:
            client.consume()
        elif move is Move.ACKNOWLEDGE:
            client.acknowledge()
        elif move is Move.CONNECT and client.link is None and not client.finished:
            self.links.append(client.connect())
        elif move is Move.SEND and server.can_send:
            server.send()
        elif move is Move.DECODE and server.worker is not None and server.worker.busy:
            server.worker.decode(count)
        elif move is Move.DELIVER_TO_SERVER:
            links = [link for link in self.links if link.server_open and link.to_server]
            if links:
                link = links[count % len(links)]
                server.take(link, *link.to_server.popleft())
        elif move is Move.DELIVER_TO_CLIENT and client.link is not None and client.link.to_client:
            client.take(*client.link.to_client.popleft())
        elif move is Move.SERVE:
            server.run(self.links)
        elif move is Move.GO_ON and not client.finished:
            self._step()

    # What breaks

    def break_something(self, fault: Fault) -> None:
        link = self.client.link
        closed = [each for each in self.links if not each.client_open]
        if fault is Fault.CUT and link is not None:
            self.client.hang_up()
            link.to_server.clear()
            self._notice(link)
        elif fault is Fault.HALF_OPEN and link is not None:
            self.client.hang_up()
        elif fault is Fault.OVERTAKEN and link is not None:
            self.client.hang_up()
            self.links.append(again := self.client.connect())
            self.server.take(again, *again.to_server.popleft())
        elif fault is Fault.NOTICE and closed:
            self._notice(closed[0])
        elif fault is Fault.KILL_WORKER:
            self.server.kill_worker()
        elif fault is Fault.START_WORKER and not self.server.worker_up:
            self.server.start_worker()
        elif fault is Fault.REPLACE_WORKER:
            self.server.kill_worker()
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
TestResume.settings = settings(max_examples=150, stateful_step_count=40)
TestResumeWithAPictureFirst = ResumeWithAPictureFirst.TestCase
TestResumeWithAPictureFirst.settings = settings(max_examples=100, stateful_step_count=40)
TestResumeWithEndlessMemory = ResumeWithEndlessMemory.TestCase
TestResumeWithEndlessMemory.settings = settings(max_examples=40, stateful_step_count=40)
