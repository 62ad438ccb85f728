"""`submit`: send a job, and wait for it or watch it being written."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any, get_args

import typer

from nowserving.cli.job import judge, show
from nowserving.cli.option import URL, Json, Url, connect
from nowserving.cli.table import explain_progress
from nowserving.client import Client
from nowserving.job import Lane, Message

ROLES = get_args(Message.model_fields["role"].annotation)


def submit(
    model: Annotated[str, typer.Argument(help="A model of the catalog.", show_default=False)],
    prompt: Annotated[str | None, typer.Argument(help="The prompt; - reads stdin.", show_default=False)] = None,
    message: Annotated[
        list[str] | None, typer.Option("--message", "-m", metavar="ROLE:TEXT", help="A message of a chat; repeatable.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Send the prompt as a chat's user message.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens to make at most.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="1 cuts nothing.")] = None,
    top_k: Annotated[int | None, typer.Option(help="0 cuts nothing.")] = None,
    min_p: Annotated[float | None, typer.Option(help="0 cuts nothing.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1 it repeats itself less.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text to stop at; repeatable.")] = None,
    stop_token_id: Annotated[list[int] | None, typer.Option(help="Token to stop at; repeatable.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after the model's own end.")] = False,
    lane: Annotated[Lane | None, typer.Option(help="batch: only while nothing else waits.")] = None,
    start_within_seconds: Annotated[float | None, typer.Option(help="Expire if not started by then.")] = None,
    timeout_seconds: Annotated[float | None, typer.Option(help="Fail if it runs longer.")] = None,
    retain_seconds: Annotated[float | None, typer.Option(help="How long the ended job is kept.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Kept with the job; repeatable.")
    ] = None,
    webhook: Annotated[str | None, typer.Option(metavar="URL", help="Who is called when it has ended.")] = None,
    webhook_events: Annotated[
        str | None, typer.Option(metavar="EVENT,…", help="What it is called for.", show_default="all but job.started")
    ] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key makes the same job.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end and print the text.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print the text as it is made.")] = False,
    json: Json = False,
    url: Url = URL,
) -> None:
    """Submit a job; prints its id, with --wait or --stream its text. Exit code 1 if it fails."""
    if wait and stream:
        raise typer.BadParameter("--wait and --stream exclude each other")
    if prompt == "-":
        prompt = sys.stdin.read()
    messages = parse_messages(message or [], prompt if chat else None)
    if (prompt is None or chat) == (not messages):
        raise typer.BadParameter("give a PROMPT, or a chat by --chat PROMPT or --message ROLE:TEXT")
    with connect(url) as client:
        job = client.submit(
            model,
            prompt=None if messages else prompt,
            messages=messages or None,
            idempotency_key=idempotency_key,
            lane=lane.value if lane else None,
            start_within_seconds=start_within_seconds,
            timeout_seconds=timeout_seconds,
            retain_seconds=retain_seconds,
            metadata=parse_metadata(metadata or []),
            webhook=parse_webhook(webhook, webhook_events),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop or None,
            stop_token_ids=stop_token_id or None,
            ignore_eos=ignore_eos or None,
        )
        if not wait and not stream:
            show(job, json) if json else typer.echo(job.id)
            return
        if stream:
            print_stream(client, job.id, json)
        job = client.wait(job.id)
    if wait and json:
        show(job, json)
    elif wait and job.output:
        typer.echo(job.text)
    judge(job)


def print_stream(client: Client, job_id: str, json: bool) -> None:
    """Print a job's text, or each of its events as a line of JSON, as they come."""
    for event in client.stream(job_id):
        if json:
            typer.echo(jsonlib.dumps({"id": event.id, "type": event.type, **event.data}, ensure_ascii=False))
        elif event.type == "restarted":
            # What is printed cannot be taken back.
            typer.echo()
            typer.echo(typer.style("[the job begins anew; its text so far does not count]", dim=True), err=True)
        elif event.type == "progress":
            typer.echo(typer.style(explain_progress(event.data), dim=True), err=True)
        elif event.text:
            sys.stdout.write(event.text)
            sys.stdout.flush()
    if not json:
        typer.echo()


def parse_messages(given: Sequence[str], prompt: str | None = None) -> list[dict[str, str]]:
    """Read ROLE:TEXT messages; `prompt` is the last one, the user's. Raises BadParameter."""
    messages = []
    for text in given:
        role, colon, content = text.partition(":")
        if not colon or role not in ROLES:
            raise typer.BadParameter(f"--message {text!r}: expected ROLE:TEXT with {', '.join(ROLES)}")
        messages.append({"role": role, "content": content})
    if prompt is not None:
        messages.append({"role": "user", "content": prompt})
    return messages


def parse_webhook(url: str | None, events: str | None) -> dict[str, Any] | None:
    """Who is called, and for which events, apart by commas. Raises BadParameter."""
    if url is None:
        if events is not None:
            raise typer.BadParameter("--webhook-events wants a --webhook")
        return None
    return {"url": url} | ({} if events is None else {"events": [word.strip() for word in events.split(",")]})


def parse_metadata(given: Sequence[str]) -> dict[str, str]:
    """Read KEY=VALUE pairs. Raises BadParameter."""
    pairs = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"--metadata {text!r}: expected KEY=VALUE")
        pairs[key] = value
    return pairs
