"""How many replicas a ScaledObject asks for at given depths: its formula, computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nowserving.keda.check.expression import Formula, UnknownFormulaError, parse
from nowserving.keda.check.field import number
from nowserving.keda.check.scaled import Scaled

TOLERANCE = 0.1
"""What the HPA overlooks, by default."""


@dataclass(frozen=True)
class Demand:
    """A formula whose triggers all read keys of ours."""

    scaled: Scaled
    formula: Formula
    target: float

    def value(self, **depths: float) -> float:
        """The formula's value; roles that are not named are empty."""
        found = {trigger.name: float(depths.get(trigger.role, 0)) for trigger in self.scaled.triggers}
        return self.formula.value(found)

    def replicas(self, **depths: float) -> float:
        """The replicas asked for, before they are rounded up."""
        return self.value(**depths) / self.target

    @property
    def is_number(self) -> bool:
        """Does it come to a number at all, at depths that are common?"""
        common: tuple[dict[str, float], ...] = (
            {},
            {"queued": 1},
            {"running": 1, "busy": 1},
            {"queued": 9, "running": 8, "busy": 1, "blocked": 1},
        )
        return all(math.isfinite(self.value(**depths)) for depths in common)


def demand(scaled: Scaled) -> Demand | None:
    """What can be computed of a ScaledObject; None if it has no formula, or one that cannot be judged here."""
    target = number(scaled.modifiers.get("target"))
    triggers = scaled.triggers
    clear = all(trigger.role and trigger.name and not trigger.is_misnamed for trigger in triggers)
    if not scaled.formula or not target or target < 0 or not clear:
        return None
    try:
        return Demand(scaled, parse(scaled.formula), target)
    except UnknownFormulaError:
        return None


def sound(scaled: Scaled) -> Demand | None:
    """The same, if it comes to a number."""
    found = demand(scaled)
    return found if found and found.is_number else None
