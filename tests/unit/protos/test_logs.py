import logging

import pytest

from framehaul import logs


def test_the_log_goes_to_stderr_with_utc_times(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("warning")
        logging.getLogger("framehaul").warning("%s", "event n=1")
        logging.getLogger("framehaul").info("hidden")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("Z WARNING event n=1\n")
    assert "hidden" not in captured.err
