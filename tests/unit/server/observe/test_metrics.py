import re
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request
from aiohttp.web import Response

from framehaul.causes import Cause
from framehaul_pipeline.errors import Lack
from framehaul_pipeline.link.messages import DeviceTime
from framehaul_pipeline.supervision.epoch import WorkerStatistics
from framehaul_server.core.recorder import Recorder
from framehaul_server.core.session_view import SessionView
from framehaul_server.observe.metrics import _ENDS, routes
from framehaul_server.observe.view import ServerView
from framehaul_server.rpc import status
from tests.support.prometheus import RULES, dashboard_expressions
from tests.support.scrape import Metrics

SECOND_NS = 1_000_000_000
DOCS = Path(__file__).parents[4] / "docs/observability.md"


def session(number: int, tenant: str, state: str) -> SessionView:
    return SessionView(
        number=number,
        request_id="id",
        tenant=tenant,
        model="tiny",
        width=64,
        height=64,
        pixel_format="rgb24",
        explicit=True,
        priority=0,
        state=state,
        num_latents=1,
        num_fed=1,
        num_published=4,
        num_taken=4,
        frames_until=8,
        waiting_for=Cause.LATENTS,
        seconds={},
    )


def view(recorder: Recorder, *sessions: SessionView, now_ns: int = 10 * SECOND_NS) -> ServerView:
    return ServerView(
        now_ns=now_ns,
        version="1.2",
        device="cpu",
        worker_state="restarting",
        num_restarts=3,
        max_sessions=8,
        num_sessions=len(sessions),
        num_queued=2,
        max_queued=4,
        worker=WorkerStatistics(
            num_slots=8,
            num_slots_held=5,
            num_inlet_slots=40,
            num_inlet_free=30,
            num_sessions=2,
            session_memory_bytes=1000,
            session_memory_used_bytes=600,
            num_parked=1,
        ),
        recorder=recorder,
        sessions=sessions,
        num_readers=6,
        num_reading=2,
    )


async def scraped(seen: ServerView, accept: str = "") -> Response:
    ((path, handler),) = routes(lambda: seen)
    assert path == "/metrics"
    response = await handler(make_mocked_request("GET", path, headers={"Accept": accept}))
    assert isinstance(response, Response)
    return response


async def metrics(seen: ServerView) -> Metrics:
    response = await scraped(seen)
    assert response.content_type == "text/plain"
    assert isinstance(response.body, bytes)
    return Metrics(response.body.decode())


@pytest.mark.asyncio
async def test_what_the_server_has_is_told() -> None:
    recorder = Recorder(0)
    recorder.ended(tenant="film", cause="ok", lack=None)
    recorder.ended(tenant="film", cause="ok", lack=None)
    recorder.ended(tenant=None, cause="resource_exhausted", lack=Lack.TENANT_BYTES)
    highlights = recorder.totals.highlights
    highlights.ended["film", "aborted"] += 1
    highlights.film_s += 60.5
    highlights.had_device(2_000_000)
    found = await metrics(view(recorder, session(1, "film", "served"), session(2, "ads", "detached")))
    assert found.value("build_info", version="1.2", device="cpu") == 1
    assert found.value("worker_state", state="restarting") == 1
    assert found.value("worker_state", state="ready") == 0
    assert found.value("worker_restarts_total") == 3
    assert found.value("sessions", state="served", tenant="film") == 1
    assert found.value("sessions", state="detached", tenant="film") == 0
    assert found.value("sessions", state="detached", tenant="ads") == 1
    assert found.value("places_held") == 2
    assert found.value("places_limit") == 8
    assert found.value("queued_sessions") == 2
    assert found.value("queued_sessions_limit") == 4
    assert found.value("session_calls_total", tenant="film", cause="ok") == 2
    assert found.value("session_calls_total", tenant="ads", cause="internal") == 0
    assert found.value("session_calls_total", tenant="", cause="resource_exhausted") == 1
    assert found.value("refusals_total", reason="tenant_bytes") == 1
    assert found.value("refusals_total", reason="device_memory") == 0
    assert found.value("frame_slots", state="held") == 5
    assert found.value("frame_slots", state="free") == 3
    assert found.value("inlet_slots", state="held") == 10
    assert found.value("inlet_slots", state="free") == 30
    assert found.value("session_memory_bytes") == 600
    assert found.value("session_memory_limit_bytes") == 1000
    assert found.value("parked_sessions") == 1
    assert found.value("highlight_calls_total", tenant="film", cause="aborted") == 1
    assert found.value("highlight_calls_total", tenant="film", cause="ok") == 0
    assert found.value("highlight_film_seconds_total") == 60.5
    assert found.value("highlight_batches_total") == 1
    assert found.value("highlight_device_seconds_total") == 0.002
    assert found.value("highlight_readers", state="held") == 2
    assert found.value("highlight_readers", state="free") == 4
    without = await metrics(replace(view(recorder), num_readers=0))
    assert not [name for name in without.names if "highlight" in name]


@pytest.mark.asyncio
async def test_causes_have_their_names_and_all_of_them_are_there_from_the_start() -> None:
    """What rises from nothing is not missed, and a stack in a dashboard has all its parts."""
    recorder = Recorder(0)
    number = recorder.begin(0)
    recorder.charge(number, Cause.CLIENT_ENCODER, 0, 3 * SECOND_NS)
    recorder.charge(number, Cause.CLIENT_ENCODER, 3 * SECOND_NS, 4 * SECOND_NS, goes_on=True)
    found = await metrics(view(recorder))
    blocked = {dict(labels)["cause"]: value for labels, value in found.values("blocked_seconds_total").items()}
    assert blocked == {cause.name.lower(): 0 for cause in Cause if cause is not Cause.IDLE} | {"client_encoder": 4}
    assert found.value("waits_total", cause="client_encoder") == 1
    assert found.value("waits_total", cause="network") == 0
    shares = {dict(labels)["cause"]: value for labels, value in found.values("time_share").items()}
    assert shares == {cause.name.lower(): 0 for cause in Cause} | {"client_encoder": 1}


@pytest.mark.asyncio
async def test_histograms_count_what_is_at_or_below_each_bound() -> None:
    recorder = Recorder(0)
    for seconds in (0.0001, 0.1, 0.11, 1000):
        recorder.queue_s.observe(seconds)
    found = await metrics(view(recorder))
    buckets = {dict(labels)["le"]: value for labels, value in found.values("queue_wait_seconds_bucket").items()}
    assert [buckets[bound] for bound in ("0.1", "0.5", "300.0", "+Inf")] == [2, 3, 3, 4]
    assert found.value("queue_wait_seconds_count") == 4
    assert found.value("queue_wait_seconds_sum") == pytest.approx(1000.2101)
    assert {dict(labels)["stage"] for labels in found.values("chunk_stage_seconds_count")} == {
        *("wait", "decode", "copy", "publish")
    }


@pytest.mark.asyncio
async def test_who_accepts_openmetrics_gets_that() -> None:
    response = await scraped(view(Recorder(0)), "application/openmetrics-text; version=1.0.0, text/plain; q=0.5")
    assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert isinstance(response.body, bytes)
    text = response.body.decode()
    assert text.endswith("# EOF\n")
    assert "# TYPE framehaul_frames_sent counter" in text


def test_every_way_that_a_call_ends_is_told() -> None:
    codes = {code.name.lower() for _, code in status._CODES} | {"ok", "client_left", "internal"}
    assert set(_ENDS) == codes - {"unauthenticated"}, "strangers' calls aren't sessions'"


@pytest.mark.asyncio
async def test_dashboard_and_rules_ask_for_nothing_else() -> None:
    recorder = Recorder(0)
    recorder.begin(0)
    recorder.decoded(DeviceTime(session=1, tenant="", num_latents=1, device_ns=1, kernels_ns=1), SECOND_NS)
    recorder.totals.highlights.ended["film", "ok"] += 1
    exported = (await metrics(view(recorder, session(1, "film", "served")))).names
    texts = [*dashboard_expressions(), RULES.read_text()]
    asked = {name for text in texts for name in re.findall(r"\b(?:framehaul|process)_\w+", text)}
    assert asked <= exported
    assert len(asked) > 20


@pytest.mark.asyncio
async def test_the_docs_have_every_metric_with_its_help_text_and_no_other() -> None:
    recorder = Recorder(0)
    recorder.charge(recorder.begin(0), Cause.DECODE, 0, SECOND_NS)
    families = (await metrics(view(recorder))).families
    rows = re.findall(r"^\| `(framehaul_\w+)(?:\{[\w, ]+\})?` \| (\w+) \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    told = {name: (kind, text) for name, kind, text in rows}
    assert told == {name: each for name, each in families.items() if name.startswith("framehaul_")}
