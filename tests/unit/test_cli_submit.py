from __future__ import annotations

import inspect
from collections.abc import Iterator
from json import loads
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from nowserving import __version__
from nowserving.cli import app
from nowserving.cli.submit import parse_messages, parse_metadata, print_stream, submit
from nowserving.client import Client, Job, JobEvent
from nowserving.job import Parameters, Status

runner = CliRunner()


def test_messages_are_read_and_the_prompt_comes_last() -> None:
    assert parse_messages(["system:Be brief: always.", "user:Hi"], "And?") == [
        {"role": "system", "content": "Be brief: always."},
        {"role": "user", "content": "Hi"},
        {"role": "user", "content": "And?"},
    ]


def test_a_stream_that_begins_anew_says_so_beside_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    events = [("token", {"text": "w0"}), ("restarted", {}), ("token", {"text": "w0 w1"}), ("succeeded", {})]

    class Stream(Client):
        def stream(self, job_id: str, last_event_id: str | None = None) -> Iterator[JobEvent]:
            return (JobEvent("1-0", kind, data) for kind, data in events)

    with Stream("http://127.0.0.1:1") as client:
        print_stream(client, "job_1", json=False)
        captured = capsys.readouterr()
        assert captured.out == "w0\nw0 w1\n"
        assert "begins anew" in captured.err
        print_stream(client, "job_1", json=True)
        assert [loads(line)["type"] for line in capsys.readouterr().out.splitlines()] == [kind for kind, _ in events]


@pytest.mark.parametrize("text", ["hello", "robot:hello", ":hello"])
def test_a_message_without_a_known_role_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="ROLE:TEXT"):
        parse_messages([text])


def test_metadata_is_read_and_checked() -> None:
    assert parse_metadata(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    with pytest.raises(typer.BadParameter, match="KEY=VALUE"):
        parse_metadata(["novalue"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit"],
        ["submit", "smollm2"],
        ["submit", "smollm2", "hello", "--message", "user:hello"],
        ["submit", "smollm2", "hello", "--wait", "--stream"],
        ["submit", "smollm2", "hello", "--max-new-tokens", "many"],
        ["submit", "smollm2", "hello", "--webhook-events", "job.failed"],
        ["deliveries", "--status", "lost"],
        ["redeliver"],
        ["listen"],
        ["listen", "65536"],
        ["job"],
        ["jobs", "--status", "lost"],
        ["no-such-command"],
        ["worker", "no-such-model"],
        ["submit", "smollm2", "hello", "--url", "127.0.0.1:1"],
    ],
)
def test_wrong_usage_ends_with_2_and_no_traceback(arguments: list[str]) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_each_parameter_has_an_option_and_only_those_given_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []

    def note(self: Client, model: str, **options: Any) -> Job:
        sent.append({name: value for name, value in options.items() if value is not None})
        return Job("job_1", model, Status.QUEUED)

    monkeypatch.setattr(Client, "submit", note)
    for words in (
        [],
        ["--min-p", "0.1", "--repetition-penalty", "1.2", "--ignore-eos", "--stop-token-id", "2"],
        ["--stop-token-id", "2", "--stop-token-id", "7", "--stop", "x", "--top-k", "3"],
    ):
        assert runner.invoke(app, ["submit", "smollm2", "hi", *words]).exit_code == 0
    plain = {"prompt": "hi", "metadata": {}}
    assert sent == [
        plain,
        {**plain, "min_p": 0.1, "repetition_penalty": 1.2, "ignore_eos": True, "stop_token_ids": [2]},
        {**plain, "stop_token_ids": [2, 7], "stop": ["x"], "top_k": 3},
    ]


@pytest.mark.parametrize(
    ("words", "webhook"),
    [
        (["--webhook", "https://a.example/x"], {"url": "https://a.example/x"}),
        (
            ["--webhook", "https://a.example", "--webhook-events", "job.started, job.failed"],
            {"url": "https://a.example", "events": ["job.started", "job.failed"]},
        ),
    ],
)
def test_who_is_called_is_sent(words: list[str], webhook: object, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []

    def note(self: Client, model: str, **options: Any) -> Job:
        sent.append(options["webhook"])
        return Job("job_1", model, Status.QUEUED)

    monkeypatch.setattr(Client, "submit", note)
    assert runner.invoke(app, ["submit", "smollm2", "hi", *words]).exit_code == 0
    assert sent == [webhook]


def test_every_parameter_of_a_job_has_an_option() -> None:
    options = set(inspect.signature(submit).parameters)
    assert {name.replace("token_ids", "token_id") for name in Parameters.model_fields} <= options


def test_the_version_is_printed() -> None:
    result = runner.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"nowserving {__version__}\n")


def test_a_wrong_setting_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOWSERVING_PORT", "many")
    result = runner.invoke(app, ["up"])
    assert result.exit_code == 2
    assert result.stderr.startswith("nowserving: NOWSERVING_PORT='many' is not allowed")
    assert result.stderr.count("\n") == 1
