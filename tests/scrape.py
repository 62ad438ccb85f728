"""What a worker's own port says, read as Prometheus and the kubelet do."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from nowserving.cli.port import find_free_port

DOCUMENT = Path(__file__).parents[1] / "docs/metrics.md"
_ROW = re.compile(r"^\| `(\w+)` \|(.*?)\| (\w+) \|", re.MULTILINE)
Described = dict[str, tuple[str, tuple[str, ...]]]
"""Names of metrics → type and labels."""


def documented(*headings: str) -> Described:
    """What docs/metrics.md says of the metrics under these headings."""
    found: Described = {}
    for part in re.split(r"^#+ ", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]:
        if part.partition("\n")[0] in headings:
            found |= {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, labels, kind in _ROW.findall(part)}
    return found


def families(text: str) -> dict[str, Metric]:
    """All metrics of an answer by their names, as one asks for them."""
    read = text_string_to_metric_families(text)
    return {f"{family.name}_total" if family.type == "counter" else family.name: family for family in read}


def samples(text: str) -> dict[str, float]:
    """All samples by name and label values, in the order of the labels' names."""
    return {
        " ".join([sample.name, *(value for _, value in sorted(sample.labels.items()))]): sample.value
        for family in families(text).values()
        for sample in family.samples
    }


class OwnPort:
    """A worker's own port on this machine."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number or find_free_port()

    def get(self, path: str) -> httpx.Response:
        """Ask as a probe does, once."""
        return httpx.get(f"http://127.0.0.1:{self.number}{path}", timeout=5, trust_env=False)

    def probe(self, name: str) -> tuple[int, str]:
        """Status and reason of /health/NAME; 0 where nobody listens."""
        try:
            answer = self.get(f"/health/{name}")
        except httpx.TransportError:
            return 0, ""
        return answer.status_code, answer.json().get("reason", "")

    def samples(self) -> dict[str, float]:
        """All that /metrics says."""
        return samples(self.get("/metrics").text)
