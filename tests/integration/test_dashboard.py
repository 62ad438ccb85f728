"""The dashboard asks for nothing that nobody exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from tests.api_server import ApiServer
from tests.images.dockerfile import ROOT
from workers.metrics import SIZES, DeliveryMetrics, Figures, JobMetrics

GRAFANA = ROOT / "deploy/grafana"
OF_HISTOGRAMS = ("_bucket", "_sum", "_count")
OWN = {"instance", "job", "le"}
"""Labels that Prometheus and histograms add."""


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return dict(json.loads((GRAFANA / "dashboards/nowserving.json").read_text()))


def targets(dashboard: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target


def expressions(dashboard: dict[str, Any]) -> list[str]:
    variables = [variable["definition"] for variable in dashboard["templating"]["list"]]
    return [*variables, *(target["expr"] for _, target in targets(dashboard))]


def scrape_workers() -> str:
    job, delivery = JobMetrics("m"), DeliveryMetrics("@webhooks")
    for metrics in (job, delivery):
        metrics.watch(lambda: Figures(True, 1, 0, None, 0.0, dict.fromkeys(SIZES, 1)))
        metrics.handed_back("drained")
    job.ended("failed", "internal", 1.0)
    delivery.attempted(200, 1.0)
    delivery.settled("delivered")
    return (job.write() + delivery.write()).decode()


def exported(text: str) -> dict[str, set[str]]:
    """Each series of a scrape, with its labels; of a metric without samples none are known."""
    found: dict[str, set[str]] = {}
    for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE):
        for ending in OF_HISTOGRAMS if kind == "histogram" else ("",):
            found[name + ending] = set()
    for name, labels in re.findall(r"^([a-z_]+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        found[name] |= set(re.findall(r'(\w+)="', labels))
    return found


def test_every_name_and_label_is_exported(dashboard: dict[str, Any], api: ApiServer) -> None:
    series = exported(httpx.get(api.url + "/metrics").text) | exported(scrape_workers())
    asked = expressions(dashboard)
    assert len(asked) > 40
    for expression in asked:
        names = set(re.findall(r"\bnowserving_\w+", expression))
        assert names, expression
        assert names <= set(series), expression
        labels = {label.strip() for listed in re.findall(r"by \(([^)]*)\)", expression) for label in listed.split(",")}
        labels |= set(re.findall(r"[{,](\w+)=", expression))
        known = {label for name in names for label in series[name]}
        assert labels - OWN <= known, expression


def test_nothing_that_counts_up_is_shown_as_it_stands(dashboard: dict[str, Any]) -> None:
    for expression in expressions(dashboard):
        for name in re.findall(r"\bnowserving_\w+(?:_total|_bucket)\b", expression):
            assert re.search(rf"(rate|increase)\({name}", expression), expression


def test_legends_name_labels_that_are_left(dashboard: dict[str, Any]) -> None:
    for title, target in targets(dashboard):
        left = {
            label.strip() for listed in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in listed.split(",")
        }
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= left, title


def test_panels_have_their_place_and_their_source(dashboard: dict[str, Any]) -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        x, y, width, height = (panel["gridPos"][key] for key in ("x", "y", "w", "h"))
        cells = {(x + column, y + line) for column in range(width) for line in range(height)}
        assert x + width <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
