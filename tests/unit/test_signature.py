"""What we sign, the official library takes; what was changed on the way, it does not."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from nowserving.secret import new_secret
from nowserving.signature import find_fault, sign

ROOT = Path(__file__).parents[2]
DELIVERY = "dlv_01k0000000000000000000000a_succeeded"
BODY = '{"type":"job.succeeded","data":{"text":"a\\ud800€"}}'.encode()
OLD, NEW = new_secret(), new_secret()


def test_the_official_library_takes_it() -> None:
    headers = sign([NEW], DELIVERY, time.time(), BODY)
    assert headers["webhook-id"] == DELIVERY
    assert headers["webhook-signature"].startswith("v1,")
    assert Webhook(NEW).verify(BODY, headers)["type"] == "job.succeeded"
    assert not find_fault([NEW], headers, BODY)


def test_the_receiver_in_the_docs_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", NEW)
    text = (ROOT / "docs" / "webhooks.md").read_text()
    names: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    content = b'{"type":"job.succeeded","data":{"id":"job_1"}}'

    async def post(secret: str) -> int:
        transport = httpx.ASGITransport(names["app"])
        async with httpx.AsyncClient(transport=transport, base_url="http://docs") as client:
            headers = sign([secret], DELIVERY, time.time(), content)
            return (await client.post("/hooks", content=content, headers=headers)).status_code

    assert [asyncio.run(post(secret)) for secret in (NEW, OLD)] == [204, 400]


def test_it_is_the_example_of_the_standard() -> None:
    """The one that the libraries of Standard Webhooks test themselves with."""
    secret, sent = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 1614265330
    headers = sign([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", sent, b'{"test": 2432232314}')
    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_while_a_secret_is_changed_either_will_do() -> None:
    headers = sign([NEW, OLD], DELIVERY, time.time(), BODY)
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (NEW, OLD):
        Webhook(secret).verify(BODY, headers)
        assert not find_fault([new_secret(), secret], headers, BODY)


def test_each_attempt_has_a_timestamp_of_its_own() -> None:
    first, second = sign([NEW], DELIVERY, 1000.9, BODY), sign([NEW], DELIVERY, 1001.0, BODY)
    assert first["webhook-timestamp"] == "1000"
    assert first["webhook-signature"] != second["webhook-signature"]
    assert first["webhook-id"] == second["webhook-id"]


@pytest.mark.parametrize("age_seconds", [301, -302])
def test_the_official_library_refuses_another_time(age_seconds: int) -> None:
    headers = sign([NEW], DELIVERY, time.time() - age_seconds, BODY)
    with pytest.raises(WebhookVerificationError, match="too old" if age_seconds > 0 else "too new"):
        Webhook(NEW).verify(BODY, headers)
    assert "timestamp too" in find_fault([NEW], headers, BODY)


@pytest.mark.parametrize(
    ("secret", "body", "changed"),
    [
        (OLD, BODY, {}),
        (NEW, BODY.replace(b"succeeded", b"failed"), {}),
        (NEW, BODY, {"webhook-id": DELIVERY + "_2"}),
        (NEW, BODY, {"webhook-timestamp": "a few seconds ago"}),
        (NEW, BODY, {"webhook-signature": "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="}),
    ],
    ids=["secret", "body", "id", "timestamp", "version"],
)
def test_the_official_library_refuses_what_was_changed(secret: str, body: bytes, changed: dict[str, str]) -> None:
    now = time.time()  # not when the tests were collected: a suite may take longer than a timestamp is good for
    changed = {name: str(int(now) - 7) if name == "webhook-timestamp" else value for name, value in changed.items()}
    headers = {**sign([NEW], DELIVERY, now, BODY), **changed}
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(secret).verify(body, headers)
    assert find_fault([secret], headers, body) == "No matching signature found"


@pytest.mark.parametrize("signature", ["v1", "v1,é", "v1,a", ",", "v1,a,b"])
def test_a_signature_of_any_form_is_refused_in_words(signature: str) -> None:
    headers = {**sign([NEW], DELIVERY, time.time(), BODY), "webhook-signature": signature}
    assert find_fault([NEW], headers, BODY)


def test_what_has_no_headers_or_is_no_text_is_refused_in_words() -> None:
    assert find_fault([NEW], {}, BODY) == "Missing required headers"
    assert find_fault([NEW], sign([NEW], DELIVERY, time.time(), BODY), b"\xff")
    assert find_fault([], sign([NEW], DELIVERY, time.time(), BODY), BODY)


def test_nothing_goes_out_unsigned() -> None:
    with pytest.raises(ValueError, match="no secret"):
        sign([], DELIVERY, time.time(), BODY)
