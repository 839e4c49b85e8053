import pytest

from framehaul_client.core.cutting import (
    Packet,
    Plan,
    decode_times,
    exact_plan,
    free_parameter_set,
    is_joint,
    spliced,
    split_units,
    whole_plan,
)

START = b"\0\0\0\1"


def packets(*frames: str) -> list[Packet]:
    """In the order of decoding: 12 is shown at 12; a k after it marks a key frame, and a j one that is a joint too."""
    return [Packet(int(each.rstrip("kj")), each[-1] in "kj", each[-1] == "j") for each in frames]


FILM = packets("0j", "3", "1", "2", "4j", "7", "5", "6", "8j", "11", "9", "10", "12j")


@pytest.mark.parametrize(
    ("start", "end", "plan"),
    [
        (4, 8, Plan((4, 4), (4, 5, 6, 7), (8, 8))),  # from a joint to a joint
        (2, 8, Plan((2, 4), (4, 5, 6, 7), (8, 8))),
        (2, 10, Plan((2, 4), (4, 5, 6, 7, 8), (9, 10))),  # 11 would come before 9
        (5, 7, Plan((5, 7), (), (7, 7))),  # no joint inside
        (12, 13, Plan((12, 12), (12,), (13, 13))),  # the film's last
    ],
)
def test_an_exact_plan_copies_from_a_joint_to_where_nothing_is_missing(start: int, end: int, plan: Plan) -> None:
    """What is before and after it is encoded; a reordered frame is copied with those that it is among."""
    assert exact_plan(FILM, start, end) == plan
    assert plan.encodes == (plan.head[0] < plan.head[1] or plan.tail[0] < plan.tail[1])


def test_frames_shown_before_a_joint_are_left_to_the_head() -> None:
    """They come after it, and need what was before it."""
    film = packets("0j", "1", "4j", "2", "3", "5", "6j")
    assert exact_plan(film, 1, 6) == Plan((1, 4), (2, 5), (6, 6))


def test_times_between_frames_ask_for_nothing_to_be_encoded() -> None:
    """Half a frame before a key frame, there is none."""
    film = packets("0j", "10j", "20j", "30j")
    assert not exact_plan(film, 5, 25).encodes


@pytest.mark.parametrize(
    ("start", "end", "copied"),
    [
        (4, 8, (4, 5, 6, 7)),
        (5, 8, (4, 5, 6, 7)),  # from the key frame before
        (5, 10, (4, 5, 6, 7, 8, 9, 10, 11)),  # 11 is needed by 9
        (12, 13, (12,)),
    ],
)
def test_a_whole_plan_encodes_nothing(start: int, end: int, copied: tuple[int, ...]) -> None:
    """It begins earlier and ends later instead."""
    plan = whole_plan(FILM, start, end)
    assert (plan.copied, plan.encodes) == (copied, False)


def test_a_film_that_begins_after_the_start_is_taken_from_its_first_key_frame() -> None:
    assert whole_plan(packets("5k", "6", "7"), 2, 7).copied == (0, 1)


@pytest.mark.parametrize(
    ("shown", "times"),
    [([0, 1, 2], [0, 1, 2]), ([0, 3, 1, 2], [-1, 0, 1, 2]), ([], []), ([0, 8, 4, 2, 6], [-4, -2, 0, 2, 4])],
)
def test_frames_are_decoded_before_they_are_shown(shown: list[int], times: list[int]) -> None:
    """In equal steps, and no earlier than the most reordered frame needs."""
    assert decode_times(shown) == times


def test_units_are_between_start_codes() -> None:
    """Of three bytes or four; zeros at the stream's end are the last one's."""
    assert split_units(b"\0\0\0\1ab\0\0\1c\0\0\0\1d\0") == [b"ab", b"c", b"d\0"]


@pytest.mark.parametrize(
    ("codec", "first_byte", "joint"),
    [("h264", 0x65, True), ("h264", 0x61, False), ("hevc", 19 << 1, True), ("hevc", 21 << 1, True), ("hevc", 2, False)],
)
def test_what_ends_all_that_came_before(codec: str, first_byte: int, joint: bool) -> None:
    """An instant refresh of H.264; any random access picture of HEVC, since what it leads is left out."""
    assert is_joint(codec, START + b"\x09\x10" + START + bytes((first_byte, 1, 2))) == joint


def test_a_splice_changes_one_kind_of_unit_alone() -> None:
    """HEVC's clean random access becomes a broken link."""
    header, picture = b"\x40\x01\x0c", b"\x2a\x01\xaf"
    found = spliced("hevc", START + header + START + picture)
    assert found == START + header + START + bytes((18 << 1, 1, 0xAF))
    assert spliced("h264", START + b"\x65\x88") == START + b"\x65\x88"


def test_a_free_number_is_none_of_either_kind_of_set() -> None:
    """Numbers are in exponential Golomb code: 1 is 0, 010 is 1, 011 is 2."""
    sps = START + bytes((0x67, 100, 0, 30, 0b1010_0000))
    other = START + bytes((0x67, 100, 0, 30, 0b0100_0000))
    pps = START + bytes((0x68, 0b0111_0000))
    access_unit = START + b"\x09\x10"
    assert free_parameter_set(sps + pps + access_unit) == 1
    assert free_parameter_set(sps + other + pps) == 3


def test_a_stream_may_have_no_number_left() -> None:
    every = [number + 1 for number in range(32)]
    codes = ["0" * (each.bit_length() - 1) + f"{each:b}" for each in every]
    sets = [int(code.ljust(16, "1"), 2).to_bytes(2) for code in codes]
    with pytest.raises(ValueError, match="taken"):
        free_parameter_set(b"".join(START + bytes((0x67, 100, 0, 30)) + each for each in sets))
