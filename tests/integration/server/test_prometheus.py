"""`deploy/` in a real Prometheus that scrapes a real server, where Prometheus is installed."""

from pathlib import Path

import grpc
import pytest

from framehaul.v1 import frames_pb2 as pb
from framehaul.v1.highlights_pb2 import HighlightRequest
from framehaul.v1.highlights_pb2_grpc import HighlightServiceStub
from tests.integration.conftest import StartServer
from tests.support.call import Call
from tests.support.clips import EXPLICIT, latents, opening
from tests.support.prometheus import (
    DEPLOY,
    LACKING,
    Prometheus,
    dashboard_expressions,
    promtool,
    running_prometheus,
)
from tests.support.scrape import get
from tests.support.server_process import ServerProcess
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"{' and '.join(LACKING)} not installed (Debian: prometheus)")

WINDOW = 'framehaul_blocked_seconds_total{cause="client_window"}'


def test_rules_and_the_example_of_a_configuration_are_good() -> None:
    promtool("check", "rules", *map(str, DEPLOY.glob("*-rules.yml")))
    promtool("check", "config", str(DEPLOY / "prometheus.yml"))


def test_prometheus_shows_a_killed_worker_and_a_stalled_client(start_server: StartServer, tmp_path: Path) -> None:
    """Every expression of the dashboard finds something, every rule is evaluated, and the linter has no complaint."""
    server = start_server("--metrics", "127.0.0.1:0", "--highlight")
    with running_prometheus(tmp_path, server.metrics_target) as prometheus, server.channel() as channel:
        with pytest.raises(grpc.RpcError):  # a film's request without anything in it
            list(HighlightServiceStub(channel).Highlight(iter([HighlightRequest()])))
        with Call(channel) as stalled, Call(channel) as call:
            stalled.send(latents(8), open=EXPLICIT)
            stalled.read_frames(8)
            call.send(latents(4), open=opening())
            call.read_frames(4)
            wait_until(lambda: prometheus.value("framehaul_frames_decoded_total") > 0, "a first scrape with frames")
            kill_worker(server, prometheus)
            call.half_close()
            call.read_to_end()
            # Its window is full, and it says nothing: that is clear after 10 s.
            wait_until(lambda: prometheus.value(f"rate({WINDOW}[5s])") > 0.5, "time that goes to the client's window")
            wait_until(lambda: prometheus.value('sum(framehaul_sessions{state="opened"})') == 1, "a scrape without it")
            stalled.send(ack=pb.Ack(next_frame=8, window_frames=100), end_of_latents=True)
            stalled.read_to_end()
        wait_until(lambda: prometheus.value('sum(framehaul_session_calls_total{cause="ok"})') == 2, "two good ends")
        for expression in dashboard_expressions():
            assert prometheus.query(expression), expression
        rules = prometheus.rules()
        assert len(rules) >= 10
        assert {name: rule["lastError"] for name, rule in rules.items() if rule.get("lastError")} == {}
        assert {rule["health"] for rule in rules.values()} == {"ok"}
        assert "framehaul_worker_restarts_total" in promtool(
            "query", "instant", f"http://{prometheus.target}", "framehaul_worker_restarts_total"
        )
        promtool("check", "metrics", standard_input=get(server.metrics_target).text)


def kill_worker(server: ServerProcess, prometheus: Prometheus) -> None:
    """Until the alert for it fires."""
    server.worker().kill()
    wait_until(lambda: prometheus.value("increase(framehaul_worker_restarts_total[1m])") > 0, "a restart")
    wait_until(lambda: prometheus.rules()["FramehaulWorkerRestarts"]["state"] == "firing", "an alert")
