"""What an operator's tools see of a server: answers over HTTP, and metrics."""

import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Answer:
    """To a GET."""

    status: int
    headers: Mapping[str, str]
    text: str


def get(
    target: str, path: str = "/metrics", *, headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None
) -> Answer:
    """Ask at `HOST:PORT`, past any proxy; whatever the status is."""
    asked = urllib.request.Request(f"http{'s' if tls else ''}://{target}{path}", headers=dict(headers or {}))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))
    try:
        with opener.open(asked, timeout=60) as answer:
            return Answer(answer.status, dict(answer.headers), answer.read().decode())
    except urllib.error.HTTPError as refusal:
        with refusal:
            return Answer(refusal.code, dict(refusal.headers), refusal.read().decode())


class Metrics:
    """The samples of a scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        families = list(text_string_to_metric_families(text))
        self.families = {
            family.name + ("_total" if family.type == "counter" else ""): (family.type, family.documentation)
            for family in families
        }
        """Type and help text of each metric."""
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    @property
    def names(self) -> set[str]:
        """Of all samples."""
        return {name for name, _ in self._values}

    def value(self, name: str, **labels: str) -> float:
        """Of one sample, without the names' common start; all labels must be given."""
        return self._values[f"framehaul_{name}", frozenset(labels.items())]

    def values(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        """Of all samples of a name, by labels."""
        return {labels: value for (each, labels), value in self._values.items() if each == f"framehaul_{name}"}


def scrape(target: str) -> Metrics:
    """All metrics now."""
    answer = get(target)
    assert answer.status == 200, answer
    return Metrics(answer.text)
