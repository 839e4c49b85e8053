"""What `deploy/` has for Prometheus and Grafana, and a real Prometheus that uses it."""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode

from tests.support.scrape import get
from tests.support.waiting import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus-rules.yml"
LACKING = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]


def dashboard_expressions(*, interval: str = "1m") -> list[str]:
    """All of the dashboard's, with Grafana's variables filled in."""
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    filled = {"$__rate_interval": interval, "$job": ".*", "$instance": ".*"}
    for variable, value in filled.items():
        expressions = [expression.replace(variable, value) for expression in expressions]
    return expressions


def promtool(*arguments: str, standard_input: str | None = None) -> str:
    """What it prints; an error if it finds one."""
    done = subprocess.run(
        ["promtool", *arguments], input=standard_input, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done
    return done.stdout + done.stderr


class Prometheus:
    """A running one."""

    def __init__(self, target: str) -> None:
        self.target = target

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples now."""
        found: list[dict[str, Any]] = self._ask("query", query=expression)["result"]
        return found

    def value(self, expression: str) -> float:
        """Of the only sample; 0 where there is none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else 0.0

    def rules(self) -> dict[str, dict[str, Any]]:
        """By name: `health`, `state`, ..."""
        return {rule["name"]: rule for group in self._ask("rules")["groups"] for rule in group["rules"]}

    def is_ready(self) -> bool:
        try:
            return get(self.target, "/-/ready").status == 200
        except URLError:
            return False

    def _ask(self, what: str, **parameters: str) -> Any:
        answer = get(self.target, f"/api/v1/{what}?{urlencode(parameters)}")
        assert answer.status == 200, (parameters, answer)
        return json.loads(answer.text)["data"]


@contextmanager
def running_prometheus(folder: Path, scraped: str) -> Iterator[Prometheus]:
    """Scrapes `HOST:PORT` with the job's name of our example, and evaluates our rules, five times a second."""
    config = folder / "prometheus.yml"
    config.write_text(
        f"""
global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}
rule_files: ["{RULES}"]
scrape_configs: [{{job_name: framehaul, static_configs: [{{targets: ["{scraped}"]}}]}}]
"""
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        target = f"127.0.0.1:{free.getsockname()[1]}"
    options = (f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={target}")
    log = folder / "prometheus.log"
    with log.open("w") as output:
        process = subprocess.Popen(["prometheus", *options], stdout=output, stderr=output)
    found = Prometheus(target)
    try:
        wait_until(lambda: process.poll() is not None or found.is_ready(), "Prometheus is ready")
        assert process.poll() is None, log.read_text()
        yield found
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
