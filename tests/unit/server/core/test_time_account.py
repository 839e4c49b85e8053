"""A session's time, charged to what its next frame waited for; milliseconds here."""

from collections import Counter

import pytest

from framehaul.causes import Cause
from framehaul_pipeline.link.messages import ChunkTimes
from framehaul_server.core.time_account import TimeAccount

MS = 1_000_000


class Account:
    """An account that starts at 100 ms, and what it told."""

    def __init__(self, *, reports: bool = True) -> None:
        self.told: list[tuple[Cause, int, int]] = []
        self.account = TimeAccount(100 * MS, lambda *interval: self.told.append(interval), reports=reports)

    def charge(self, now: int, cause: Cause) -> None:
        self.account.charge(now * MS, cause)

    def chunk(self, now: int, **times: int) -> None:
        shared = bool(times.pop("shared", False))
        slot_wait = times.pop("slot_wait", 0) * MS
        points = {f"{name}_ns": at * MS for name, at in times.items()}
        self.account.charge_chunk(now * MS, ChunkTimes(**points, slot_wait_ns=slot_wait, shared=shared))

    def seconds(self) -> dict[Cause, int]:
        """In milliseconds; what was told must add up to it, without gaps, once the client has reported."""
        found = Counter(self.account.charged_ns)
        for cause, start, end in self.account.uncharged(0, None):
            found[cause] += end - start
        return {cause: ns // MS for cause, ns in found.items()}

    def intervals(self) -> list[tuple[Cause, int, int]]:
        return [(cause, start // MS, end // MS) for cause, start, end in self.told]


def test_time_since_the_last_charge_goes_to_a_cause() -> None:
    """Each moment once; a clock that stands still, or goes back, charges nothing."""
    account = Account()
    account.charge(130, Cause.LATENTS)
    account.charge(130, Cause.SLOTS)
    account.charge(110, Cause.COPY)
    account.charge(150, Cause.SLOTS)
    assert account.seconds() == {Cause.LATENTS: 30, Cause.SLOTS: 20}
    assert account.intervals() == [(Cause.LATENTS, 100, 130), (Cause.SLOTS, 130, 150)]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (
            {"launched": 110, "turn": 110, "decoded": 150, "copied": 155, "published": 160},
            {Cause.DECODE: 50, Cause.COPY: 10},  # what comes before the launch is the decoder's
        ),
        (
            {"launched": 120, "turn": 140, "decoded": 150, "copied": 152, "published": 156, "shared": 1},
            {Cause.SHARED: 40, Cause.DECODE: 10, Cause.COPY: 6, Cause.SLOTS: 4},
        ),
        (
            {"launched": 140, "turn": 140, "decoded": 150, "copied": 152, "published": 160, "slot_wait": 30},
            {Cause.DECODE: 20, Cause.SLOTS: 30, Cause.COPY: 10},
        ),
        (
            {
                "launched": 140,
                "turn": 140,
                "decoded": 150,
                "copied": 152,
                "published": 160,
                "slot_wait": 500,
                "shared": 1,
            },
            {Cause.SLOTS: 40, Cause.DECODE: 10, Cause.COPY: 10},
        ),
        (
            {"launched": 50, "turn": 80, "decoded": 90, "copied": 95, "published": 98},
            {Cause.SLOTS: 60},
        ),
    ],
    ids=["alone", "after others", "without a slot", "without a slot for long", "long ready"],
)
def test_a_chunks_time_goes_to_its_stages(times: dict[str, int], expected: dict[Cause, int]) -> None:
    account = Account()
    account.chunk(160, **times)
    assert account.seconds() == expected
    assert account.intervals()[0][1] == 100
    assert account.intervals()[-1][2] == 160


@pytest.mark.parametrize(
    ("busy", "expected"),
    [
        (0, {Cause.CLIENT_WINDOW: 40, Cause.NETWORK: 10}),
        (20, {Cause.CLIENT_ENCODER: 20, Cause.CLIENT_WINDOW: 20, Cause.NETWORK: 10}),
        (45, {Cause.CLIENT_ENCODER: 45, Cause.NETWORK: 5}),
        (900, {Cause.CLIENT_ENCODER: 50}),
    ],
)
def test_what_is_with_the_client_is_its_encoders_as_far_as_it_says(busy: int, expected: dict[Cause, int]) -> None:
    """Whether its window is full or not; and before it says anything, its window's or the network's."""
    account = Account()
    account.charge(120, Cause.CLIENT_WINDOW)
    account.charge(140, Cause.CLIENT_WINDOW)
    account.charge(150, Cause.COPY)
    account.charge(160, Cause.NETWORK)
    assert account.seconds() == {Cause.CLIENT_WINDOW: 40, Cause.NETWORK: 10, Cause.COPY: 10}
    assert account.intervals() == [(Cause.COPY, 140, 150)]
    account.account.report(busy * MS)
    assert account.seconds() == {**expected, Cause.COPY: 10}
    spans: Counter[Cause] = Counter()
    for cause, start, end in account.intervals():
        spans[cause] += end - start
    assert spans == {**expected, Cause.COPY: 10}


def test_a_client_that_never_reports_is_charged_at_once() -> None:
    """Nothing is kept for it, however long its session is."""
    account = Account(reports=False)
    account.charge(120, Cause.NETWORK)
    assert account.intervals() == [(Cause.NETWORK, 100, 120)]


def test_a_report_says_how_long_in_all() -> None:
    """An older one, which came late, changes nothing; nor does time that was reported count twice."""
    account = Account()
    account.account.report(30 * MS)
    account.charge(120, Cause.CLIENT_WINDOW)
    account.account.report(35 * MS)
    account.charge(140, Cause.CLIENT_WINDOW)
    account.account.report(20 * MS)
    account.charge(150, Cause.CLIENT_WINDOW)
    account.account.report(38 * MS)
    assert account.seconds() == {Cause.CLIENT_ENCODER: 8, Cause.CLIENT_WINDOW: 42}


def test_a_client_that_reports_no_more_is_charged_after_ten_seconds() -> None:
    """Each moment once, to what was noted, and what is younger still waits for a report."""
    account = Account()
    account.charge(9_100, Cause.CLIENT_WINDOW)
    assert account.intervals() == []
    account.charge(12_100, Cause.CLIENT_WINDOW)
    account.charge(15_100, Cause.LATENTS)
    account.charge(17_100, Cause.NETWORK)
    window, latents, encoder = Cause.CLIENT_WINDOW, Cause.LATENTS, Cause.CLIENT_ENCODER
    first = [(window, 100, 2_100), (latents, 12_100, 15_100), (window, 2_100, 5_100), (window, 5_100, 7_100)]
    assert account.intervals() == first
    account.account.report(6_000 * MS)
    rest = [(encoder, 7_100, 12_100), (encoder, 15_100, 16_100), (Cause.NETWORK, 16_100, 17_100)]
    assert account.intervals() == first + rest
    assert sum(account.seconds().values()) == 17_000


def test_what_is_all_older_than_ten_seconds_is_charged_whole() -> None:
    account = Account()
    account.charge(1_100, Cause.CLIENT_WINDOW)
    account.charge(12_500, Cause.LATENTS)
    assert account.intervals() == [(Cause.LATENTS, 1_100, 12_500), (Cause.CLIENT_WINDOW, 100, 1_100)]
