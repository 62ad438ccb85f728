"""`keda check`: what will bite in manifests, whoever wrote them."""

from __future__ import annotations

import json as jsonlib
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from nowserving.catalog import load_catalog
from nowserving.cli.failure import FAILED, USAGE
from nowserving.keda.check import RULES, find
from nowserving.keda.check.cluster import Cluster
from nowserving.keda.check.finding import Finding
from nowserving.keda.check.loader import UnreadableError
from nowserving.keda.check.manifest import read_manifests


def check(
    files: Annotated[
        list[str], typer.Argument(metavar="FILES…", help="YAML files, folders, or - for stdin.", show_default=False)
    ],
    models: Annotated[
        Path | None, typer.Option(help="The catalog; by default the models.toml of a ConfigMap among the files.")
    ] = None,
    start_within: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="The start_within_seconds that your clients ask for.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="RULE", help="A rule to leave out; several times.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what will bite in manifests: kubectl kustomize FOLDER | nowserving keda check -

    Exit code 0: nothing was found; 1: something was; 2: a file cannot be read.
    """
    if strangers := sorted(set(ignore or ()) - {rule.id for rule in RULES}):
        raise typer.BadParameter(f"there is no rule {strangers[0]!r}", param_hint="--ignore")
    catalog = load_catalog(models) if models else None
    try:
        cluster = Cluster(read_manifests(files), catalog, start_within)
    except UnreadableError as error:
        typer.echo(f"nowserving: {' '.join(error.message.split())}", err=True)
        raise typer.Exit(USAGE) from None
    found = find(cluster, ignore or ())
    counts = Counter(str(finding.rule.severity) for finding in found)
    if json:
        findings = [finding.as_json() for finding in found]
        said = {"findings": findings, "errors": counts["error"], "warnings": counts["warning"]}
        typer.echo(jsonlib.dumps({**said, "objects": len(cluster.manifests)}, ensure_ascii=False))
    else:
        for finding in found:
            typer.echo(_say(finding))
        typer.echo(_sum(counts, len(cluster.manifests)))
    if found:
        raise typer.Exit(FAILED)


def _say(finding: Finding) -> str:
    said = finding.as_json()
    name = "/".join(part for part in (said["namespace"], said["name"]) if part)
    head = f"{said['severity']} {said['rule']}: {said['file']}: {said['kind']} {name}"
    return f"{head}\n  {said['what']}\n  why: {said['why']}\n  instead: {said['fix']}\n"


def _sum(counts: Counter[str], objects: int) -> str:
    if not counts:
        return f"Nothing found in {objects} objects."
    parts = [
        f"{counts[kind]} {kind}{'' if counts[kind] == 1 else 's'}" for kind in ("error", "warning") if counts[kind]
    ]
    return f"{' and '.join(parts)} in {objects} objects."
