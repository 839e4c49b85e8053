import asyncio
from typing import Any

import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul_server.core.limits import SessionRules, most_read
from framehaul_server.core.recorder import Recorder
from framehaul_server.core.tenants import Tenant
from framehaul_server.session.session import Session
from tests.support.fakes import (
    ANYBODY,
    FRAME_BYTES,
    LATENT_BYTES,
    FakeConnection,
    FakeWorker,
    latents,
    opening,
    record,
    request,
    rules,
)

WINDOW = 10 * FRAME_BYTES
JOURNAL = 50 * LATENT_BYTES
RULES = rules(
    window_bytes=WINDOW, latent_bytes=20 * LATENT_BYTES, journal_bytes=JOURNAL, max_request_bytes=40 * LATENT_BYTES
)
EXPLICIT = {"mode": pb.MODE_EXPLICIT}
ONE_TO_A_MESSAGE = {"max_message_bytes": 64 + FRAME_BYTES + 4}
RESUMABLE = {**EXPLICIT, "resume": pb.Resume()}


def most(held_to: SessionRules, **fields: object) -> int:
    return Session(
        request(open=opening(**fields)), FakeWorker(), held_to, record(), ANYBODY, Recorder(0)
    ).max_waiting_bytes


@pytest.mark.parametrize(
    ("fields", "num_frames", "num_latents"),
    [
        ({**EXPLICIT}, 10, 70),  # what waits, and what is kept
        ({}, 10, 110),  # a message more
        ({**RESUMABLE, **ONE_TO_A_MESSAGE}, 10, 70),  # sent or not, a response is in the window
        ({**RESUMABLE, "max_message_bytes": 64 + 3 * (FRAME_BYTES + 4)}, 12, 70),  # and part of a message
        ({**EXPLICIT, "num_latents": 50}, 10, 50),
        ({**EXPLICIT, "num_latents": 9}, 10, 9),
        ({"num_latents": 9}, 10, 9),
        ({"num_latents": 2}, 8, 2),
        ({**EXPLICIT, "num_latents": 2, "start_frame": 5}, 3, 2),
    ],
)
def test_a_session_counts_with_what_it_may_hold(fields: dict[str, object], num_frames: int, num_latents: int) -> None:
    assert most(RULES, **fields) == num_frames * FRAME_BYTES + num_latents * LATENT_BYTES


@pytest.mark.asyncio
async def test_a_session_that_keeps_all_it_can_is_within_its_count() -> None:
    """Latents that were decoded are kept for the next worker, and frames that nobody takes wait."""
    first = request(open=opening(**EXPLICIT, window_frames=8))
    worker, connection = FakeWorker(), FakeConnection()
    session = Session(first, worker, RULES, record(), ANYBODY, Recorder(0))
    task = asyncio.ensure_future(session.run(connection))
    for sent in range(1, 46):
        connection.send(request(latents(1), ack=pb.Ack(next_frame=4 * max(0, sent - 3), window_frames=8)))
        for _ in range(20):
            await asyncio.sleep(0)
    kept = session._decoding._journal.num_latents * LATENT_BYTES
    assert kept == 45 * LATENT_BYTES
    assert kept + 10 * FRAME_BYTES <= session.max_waiting_bytes
    connection.send(request(cancel=True))
    await asyncio.gather(task, return_exceptions=True)
    assert session._decoding._journal.num_latents == 0


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({}, None),
        ({"max_sessions": 3}, 3),
        ({"max_waiting_bytes": 250}, 2),
        ({"max_waiting_bytes": 99}, 0),
        ({"max_sessions": 1, "max_waiting_bytes": 250}, 1),
        ({"max_sessions": 9, "max_waiting_bytes": 250}, 2),
    ],
)
def test_as_many_requests_are_read_as_a_tenant_may_have_sessions_and_bytes(
    limits: dict[str, Any], most: int | None
) -> None:
    assert most_read(Tenant(name="film", **limits), max_request_bytes=100) == most
