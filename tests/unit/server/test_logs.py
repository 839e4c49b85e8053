import pytest

from framehaul_server import logs
from tests.support.fakes import record


def test_a_line_is_an_event_and_its_fields() -> None:
    assert logs.line("drain", sessions=3, grace_s=1.25, peer=None) == "drain sessions=3 grace_s=1.250 peer=-"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("two words", '"two words"'),
        ("", '""'),
        ('a"b', '"a\\"b"'),
        ("a=b", '"a=b"'),
        ("line\nforged level=error", '"line\\nforged level=error"'),
        ("\x1b[31m", '"\\u001b[31m"'),
    ],
)
def test_values_cannot_forge_lines_or_fields(value: str, shown: str) -> None:
    assert logs.line("e", v=value) == f"e v={shown}"


def test_a_session_record_counts_what_was_sent_and_when_the_first_frame_left() -> None:
    noted = record()
    times = []
    for num_frames in (0, 4, 4):
        noted.sent(100 if num_frames == 0 else 1000, num_frames)
        times.append(noted.first_frame_s)
    assert times[0] is None
    assert times[1] is not None
    assert times[2] == times[1]
    assert (noted.sent_bytes, noted.num_frames) == (2100, 8)
    assert noted.line().startswith(
        "session_end id=id peer=ipv4:127.0.0.1:1 method=Stream tenant=- model=- size=- mode=-"
    )


def test_a_session_record_says_how_long_it_was_queued() -> None:
    noted = record()
    assert " queued_s=- " in noted.line()
    noted.queued_s = 1.25
    assert " queued_s=1.250 " in noted.line()
