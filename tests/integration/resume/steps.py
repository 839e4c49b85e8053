"""What can happen in a sequence; hypothesis chooses."""

from dataclasses import dataclass
from enum import Enum, unique

from hypothesis import strategies as st

from tests.support.proxy import Direction


@unique
class Action(Enum):
    """What clients do, and what breaks; and how often."""

    CONNECT = "open a session, or take it up again: also when its connection is alive, which is fenced then", 10
    GO_ON = "send some latents, read some frames, acknowledge what was read", 20
    READ = "the same without a word of it", 6
    END = "say that all latents were sent, once or again", 8
    LOSE_ACKNOWLEDGEMENT = "the link breaks right before it", 4
    HALF_CLOSE = "end the call and not the session", 2
    DROP_CALL = "the same by cancelling the call", 2
    CANCEL = "on purpose: the server doesn't know it any more", 2
    ASK_TOO_LOW = "for frames that it said it has: refused by name, and the session waits for a better question", 2
    ASK_TOO_HIGH = "for frames after more than was ever sent", 2
    ASK_WITH_OTHER_VALUES = "than the session was opened with", 1
    ASK_FOR_NOBODYS = "an id that no session has", 1
    LOSE_OPENED = "nobody will ever ask for that session: it isn't kept", 3
    CUT = "reset", 4
    FREEZE = "half open", 4
    CUT_BEFORE_MESSAGE = "some messages later", 4
    CUT_AFTER_BYTE = "anywhere", 4
    KILL_WORKER = "SIGKILL", 3
    STOP_WORKER = "SIGSTOP", 1
    REPLACE_SERVER = "SIGKILL, and another one is started", 1

    def __init__(self, meaning: str, weight: int) -> None:
        self.meaning = meaning
        self.weight = weight

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Step:
    """Each action takes of it what it needs."""

    action: Action
    number: int
    """Of the session."""
    road: int
    direction: Direction
    clip: int
    window: int
    part: float
    """Of the frames that were received and not read: those that count as received."""
    count: int


STEPS = st.builds(
    Step,
    action=st.sampled_from([action for action in Action for _ in range(action.weight)]),
    number=st.integers(0, 2),
    road=st.integers(0, 1),
    direction=st.sampled_from(Direction),
    clip=st.integers(0, 2),
    window=st.sampled_from([4, 7, 12]),
    part=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    count=st.integers(1, 6),
)
