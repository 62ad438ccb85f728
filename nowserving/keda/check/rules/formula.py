"""How a formula is written: its names, its target, its numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

from nowserving.keda.check.cluster import Cluster
from nowserving.keda.check.demand import demand
from nowserving.keda.check.expression import UnknownFormulaError, names, unclosed
from nowserving.keda.check.field import dig, items, number, shorten, text
from nowserving.keda.check.finding import Hit, error, warning
from nowserving.keda.check.scaled import PLAIN, Scaled

WAITING = "(queued + queued_batch)"
FORMULA = (
    f"max(busy, ({WAITING[1:-1]} + delayed + running) / SLOTS, {WAITING} > 0 ? blocked + ceil({WAITING} / SLOTS) : 0)"
)
_NAME = re.compile(r"[A-Za-z_]\w*\Z")
_RESOURCES = ("cpu", "memory")


@error(
    "formula-missing",
    "our keys are read with no formula",
    why="With no formula the HPA takes the greatest of the triggers, never their sum: jobs waiting behind busy "
    "workers start nothing, and one key alone sees neither running jobs nor which workers are busy, so that these "
    "are stopped.",
    fix=f'advanced.scalingModifiers with formula: "{FORMULA}" and target: "1"',
)
def formula_missing(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        reading = [trigger.name or trigger.key for trigger in scaled.triggers if trigger.is_redis]
        if reading and not scaled.formula:
            some = f"{len(reading)} triggers" if len(reading) > 1 else "one trigger"
            yield Hit(scaled.manifest, f"{some} ({shorten(', '.join(reading))}) and no formula")


@error(
    "formula-unknown-name",
    "the formula names what is no trigger",
    why="KEDA refuses the whole ScaledObject, or builds no scaler for it: nothing is scaled.",
    fix="the name of a trigger, letters, digits and _ alone, or a trigger of that name",
)
def formula_unknown_name(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.scaled:
        known = {trigger.name for trigger in scaled.triggers if trigger.type not in _RESOURCES}
        for name in sorted(_named(scaled) - known):
            yield Hit(scaled.manifest, f"{shorten(name)!r} is none of {shorten(', '.join(sorted(known - {''})), 200)}")


@error(
    "formula-unclosed",
    "a bracket of the formula has no other",
    why="KEDA cannot read the formula: the ScaledObject is not ready, and nothing is scaled.",
    fix=f'formula: "{FORMULA}"',
)
def formula_unclosed(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.scaled:
        with suppress(UnknownFormulaError):
            if bracket := unclosed(scaled.formula):
                yield Hit(scaled.manifest, f"{bracket} in {shorten(scaled.formula, 200)}")


@warning(
    "trigger-unused",
    "the formula does not use a trigger",
    why="With a formula the HPA and KEDA see its value alone: the trigger costs a question at each poll, counts "
    "nothing, and one error of it stops all of them.",
    fix="use it in the formula, or take it out",
)
def trigger_unused(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.scaled:
        named = _named(scaled)
        for trigger in scaled.triggers if named else ():
            if trigger.name and trigger.name not in named and trigger.type not in _RESOURCES:
                yield Hit(scaled.manifest, f"{shorten(trigger.name)!r} is not in the formula")


@error(
    "trigger-unnamed",
    "a trigger beside a formula has no name of its own that a formula can use",
    why="KEDA finds a trigger's value by its name: without one, or with the same twice, each poll is an error; a "
    "name with a - in it is read as a subtraction.",
    fix="name: queued (or queued_batch, delayed, running, busy, blocked), each once",
)
def trigger_unnamed(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.scaled:
        triggers = [trigger for trigger in scaled.triggers if trigger.type not in _RESOURCES]
        for name, count in Counter(trigger.name for trigger in triggers).items():
            if name and count > 1:
                yield Hit(scaled.manifest, f"{count} triggers are named {shorten(name)!r}")
            elif scaled.formula and not _NAME.match(name):
                said = (
                    f"{shorten(name)!r} is no name for a formula" if name else f"{count} of its triggers have no name"
                )
                yield Hit(scaled.manifest, said)


@error(
    "target-not-whole",
    "a target is not a whole number above 0",
    why="With a formula KEDA's fallback works only if target is a whole number: with 0.5 it is silently off, and a "
    "Redis that is away freezes the replicas. A listLength that is not one is an error at each poll.",
    fix='target: "1", and the number of slots in the formula',
)
def target_not_whole(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.scaled:
        target = scaled.modifiers.get("target")
        matters = scaled.reads_ours or scaled.fallback is not None or not target
        if scaled.formula and matters and (target is None or not _is_whole(target)):
            yield Hit(scaled.manifest, f"target is {shorten(target)!r}" if target else "the formula has no target")
        for trigger in scaled.triggers:
            length = trigger.metadata.get("listLength")
            if trigger.type in PLAIN and length is not None and not _is_whole(length):
                yield Hit(scaled.manifest, f"listLength is {shorten(length)!r}", 'listLength: "1"')


@error(
    "not-a-string",
    "a value that must be a string is written as a number",
    why="KEDA's schema has strings there: the API server refuses the object.",
    fix="put it in quotes",
)
def not_a_string(cluster: Cluster) -> Iterator[Hit]:
    for manifest in cluster.of_kind("ScaledObject", "ScaledJob"):
        places = [
            ("metadata", found) for trigger in items(manifest.spec, "triggers") if (found := trigger.get("metadata"))
        ]
        places.append(("scalingModifiers", dig(manifest.spec, "advanced", "scalingModifiers")))
        for place, values in places:
            for name, value in values.items() if isinstance(values, dict) else ():
                if isinstance(value, (int, float)):
                    said = f"{place}: {shorten(name)}: {text(value)}"
                    yield Hit(manifest, f"{said} is no string", f'{shorten(name)}: "{text(value)}"')


@error(
    "metric-type-value",
    "the metric type is Value",
    why="The HPA multiplies the replicas there are by value / target: with 4 replicas and a value of 2 it wants 8, "
    "then 16, up to the maximum. Depths are totals, to be shared out: AverageValue.",
    fix="metricType: AverageValue, or leave it out",
)
def metric_type_value(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        if text(scaled.modifiers, "metricType") == "Value":
            yield Hit(scaled.manifest, "scalingModifiers.metricType is Value")
        elif not scaled.formula and any(text(trigger.body, "metricType") == "Value" for trigger in scaled.triggers):
            yield Hit(scaled.manifest, "a trigger's metricType is Value")


@warning(
    "activation-ignored",
    "a trigger beside a formula has an activation value",
    why="With a formula KEDA compares the formula's value with activationTarget, and no trigger with its own "
    "activation value.",
    fix="leave activationListLength out",
)
def activation_ignored(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        for trigger in scaled.triggers:
            if scaled.formula and number(trigger.metadata.get("activationListLength")):
                given = shorten(trigger.metadata["activationListLength"])
                yield Hit(scaled.manifest, f"activationListLength of {shorten(trigger.name)} is {given}")


@error(
    "formula-divides-by-zero",
    "the formula divides by what may be empty",
    why="Nothing divided by nothing is no number: KEDA reports it as -9223372036854775808, and the HPA goes to the "
    "minimum with jobs running.",
    fix=f'formula: "{FORMULA}", which divides by the slots alone',
)
def formula_divides_by_zero(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        found = demand(scaled)
        if found and not found.is_number and not _named(scaled) - {trigger.name for trigger in scaled.triggers}:
            yield Hit(scaled.manifest, f"{shorten(scaled.formula, 200)} is not a number for some common depths")


def _named(scaled: Scaled) -> set[str]:
    try:
        return names(scaled.formula) if scaled.formula else set()
    except UnknownFormulaError:
        return set()


def _is_whole(value: object) -> bool:
    found = text(value)
    return found.isascii() and found.removeprefix("+").isdigit() and int(found[:30]) > 0


RULES = (
    formula_missing,
    formula_unknown_name,
    formula_unclosed,
    trigger_unused,
    trigger_unnamed,
    target_not_whole,
    not_a_string,
    metric_type_value,
    activation_ignored,
    formula_divides_by_zero,
)
