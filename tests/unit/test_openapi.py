"""The OpenAPI document, and that the tests' answers are held to it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from api.app import create_app
from tests.contract import check

OPERATIONS = {
    "jobs_submit",
    "jobs_submit_batch",
    "jobs_list",
    "jobs_get",
    "jobs_cancel",
    "jobs_retry",
    "jobs_follow",
    "deliveries_list",
    "deliveries_list_of_job",
    "deliveries_redeliver",
    "chat_complete",
    "models_list",
    "models_get",
    "queues_list",
    "workers_list",
    "health_get",
    "health_live",
    "metrics_scrape",
}


def answered(path: str, body: object, status: int = 200, media_type: str = "application/json") -> httpx.Response:
    request = httpx.Request("GET", f"http://api{path}")
    return httpx.Response(status, json=body, headers={"content-type": media_type}, request=request)


def test_each_operation_has_a_name_of_its_own() -> None:
    paths = create_app().openapi()["paths"].values()
    named = [operation["operationId"] for operations in paths for operation in operations.values()]
    assert sorted(named) == sorted(OPERATIONS)


def test_what_is_answered_is_told_from_what_is_sent() -> None:
    schemas = create_app().openapi()["components"]["schemas"]
    assert "secret" in schemas["Webhook"]["properties"]
    assert set(schemas["JobWebhook"]["properties"]) == {"url", "events"}
    assert "required" not in schemas["Parameters"]
    assert set(schemas["JobParameters"]["required"]) == set(schemas["Parameters"]["properties"])


def test_clients_that_send_the_schemas_defaults_are_not_refused() -> None:
    schemas = create_app().openapi()["components"]["schemas"]
    assert "default" not in schemas["Parameters"]["properties"]["max_new_tokens"], "a model may have a lower limit"


def test_a_cursor_is_handed_back_as_it_came() -> None:
    document = create_app().openapi()
    for path, page in (("/v1/jobs", "JobPage"), ("/v1/deliveries", "DeliveryPage")):
        (cursor,) = [part for part in document["paths"][path]["get"]["parameters"] if part["name"] == "cursor"]
        given = document["components"]["schemas"][page]["properties"]["next_cursor"]
        assert {"type": cursor["schema"]["type"]} in given["anyOf"]


@pytest.mark.parametrize(
    ("path", "body", "status", "media_type"),
    [
        ("/health/live", {"status": "well"}, 200, "application/json"),
        ("/health/live", {"status": "ok", "more": 1}, 200, "application/json"),
        ("/v1/jobs", {"data": [{"id": "job_1"}], "next_cursor": None}, 200, "application/json"),
        ("/v1/jobs/job_1", {"detail": "no such job"}, 404, "application/problem+json"),
        ("/health/live", {"status": "ok"}, 200, "text/json"),
    ],
    ids=["value", "unknown field", "missing fields", "no problem", "media type"],
)
def test_an_answer_that_is_not_documented_fails_its_test(
    path: str, body: dict[str, Any], status: int, media_type: str
) -> None:
    with pytest.raises(AssertionError):
        check(answered(path, body, status, media_type))
    check(answered("/health/live", {"status": "ok"}))
