from types import SimpleNamespace
from typing import Any, cast

import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_client.command.stream import WHOLE, Part, part_of
from framehaul_client.core.info import read_info
from framehaul_client.errors import InvalidOption

INFO = read_info(
    pb.ServerInfo(
        models=[
            pb.ModelInfo(name="tiny", first_frames=4, temporal_factor=4),
            pb.ModelInfo(name="wan", first_frames=1, temporal_factor=4),
            pb.ModelInfo(name="tiles", first_frames=1, temporal_factor=4, lookahead_latents=4),
        ]
    )
)


def clip(num_frames: int | None = None) -> Any:
    """A file of 9 latents."""
    return cast(Any, SimpleNamespace(num_latents=9, num_frames=num_frames))


@pytest.mark.parametrize(
    ("model", "frames", "restart_latents", "num_latents"),
    [
        ("", (0, 0), None, 1),
        ("tiny", (0, 3), None, 1),
        ("tiny", (4, 4), None, 2),
        ("tiny", (30, 35), None, 9),
        ("wan", (0, 0), None, 1),
        ("wan", (1, 4), None, 2),
        ("wan", (5, 5), None, 3),
        ("wan", (5, 5), 2, 3),
        ("wan", (6, 6), 2, 4),
        ("tiles", (0, 0), None, 5),
        ("tiles", (20, 32), None, 9),
    ],
)
def test_no_more_latents_are_sent_than_the_frames_need(
    model: str, frames: tuple[int, int], restart_latents: int | None, num_latents: int
) -> None:
    """Those up to the last frame's, and those that it waits for, if there are so many."""
    part = part_of(clip(), INFO, model, frames, restart_latents)
    assert part == Part(num_latents=num_latents, num_frames=frames[1] + 1, start_frame=frames[0])


@pytest.mark.parametrize(("model", "noted", "last"), [("tiny", None, 35), ("wan", None, 32), ("wan", 30, 29)])
def test_frames_behind_the_clip_are_refused(model: str, noted: int | None, last: int) -> None:
    """The text has those that it has, by the file's own note."""
    assert part_of(clip(noted), INFO, model, (2, last)).num_frames == last + 1
    with pytest.raises(InvalidOption, match=f"frames=2-{last + 1}: must be within 0-{last}"):
        part_of(clip(noted), INFO, model, (2, last + 1))


def test_an_unknown_model_is_left_to_the_server() -> None:
    """It says which it has."""
    assert part_of(clip(), INFO, "other", (2, 3)) == WHOLE
