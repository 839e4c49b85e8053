import importlib.util

import pytest

from framehaul_client.core.highlights import Excerpt, Scores
from framehaul_client.errors import InvalidOption
from framehaul_client.highlight.picture import check_drawing, draw_scores


@pytest.mark.parametrize(("kind", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
@pytest.mark.parametrize("times", [[], [0.0, 0.5, 1.0]], ids=["none", "three"])
def test_scores_are_drawn(kind: str, begins: bytes, times: list[float]) -> None:
    """Of any number, weak or not, whatever a film is called; and the same ones alike each time."""
    excerpts = [Excerpt(0, 1, 2, weak=False), Excerpt(2, 3, 0.5, weak=True)]
    scores = Scores(times, [0.0, 1.0, 2.0][: len(times)], [0.5], excerpts, "lite0")
    drawn = draw_scores(scores, "a$film^{.mp4", kind)
    assert drawn.startswith(begins)


def test_a_missing_library_is_told_before_the_film_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the way to get it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidOption, match=r"pip install 'framehaul\[observe\]'"):
        check_drawing()
