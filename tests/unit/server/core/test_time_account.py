from framehaul.causes import Cause
from framehaul_server.core.time_account import TimeAccount

SECOND_NS = 1_000_000_000


class Charged:
    """An account, and what it has charged."""

    def __init__(self) -> None:
        self.intervals: list[tuple[Cause, int, int]] = []
        self.account = TimeAccount(0, self.note)

    def note(self, cause: Cause, start_ns: int, end_ns: int) -> None:
        self.intervals.append((cause, start_ns // SECOND_NS, end_ns // SECOND_NS))


def test_a_client_that_reports_no_more_is_charged_to_its_window_after_ten_seconds() -> None:
    """Each moment once, and what is younger still waits for a report."""
    charged = Charged()
    account = charged.account
    account.charge(9 * SECOND_NS, Cause.CLIENT_WINDOW)
    assert charged.intervals == []
    account.charge(12 * SECOND_NS, Cause.CLIENT_WINDOW)
    account.charge(15 * SECOND_NS, Cause.LATENTS)
    account.charge(17 * SECOND_NS, Cause.CLIENT_WINDOW)
    window, latents, encoder = Cause.CLIENT_WINDOW, Cause.LATENTS, Cause.CLIENT_ENCODER
    assert charged.intervals == [(window, 0, 2), (latents, 12, 15), (window, 2, 5), (window, 5, 7)]
    account.report(6 * SECOND_NS)
    assert charged.intervals[4:] == [(encoder, 7, 12), (encoder, 15, 16), (window, 16, 17)]
    assert sum(account.seconds.values()) == 17
