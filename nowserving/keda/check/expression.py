"""The formulas of KEDA's scalingModifiers: the arithmetic part of expr-lang, which is what formulas are written in.

A formula that uses more of that language is not judged, only the names in it are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Values = Mapping[str, float]
Term = Callable[[Values], Any]

MAX_LETTERS = 4000
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:_\d+)*(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+)|(?P<name>[A-Za-z_$][\w$]*)"
    r"|(?P<text>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|`[^`]*`)"
    r"|(?P<sign>\*\*|\|\||&&|\?\?|\?\.|==|!=|<=|>=|\.\.|[-+*/%^<>!?:(),.\[\];={}|#]))"
)
_OPERATORS = frozenset({"in", "not", "and", "or", "matches", "contains", "startsWith", "endsWith"})
_WORDS = _OPERATORS | {"let", "true", "false", "nil", "if", "else"}


class UnknownFormulaError(Exception):
    """The formula uses what is not judged here, or is none."""


def _average(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


_FUNCTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "max": lambda found: max(_flat(found)),
    "min": lambda found: min(_flat(found)),
    "sum": lambda found: sum(_flat(found)),
    "mean": lambda found: _average(_flat(found)),
    "abs": lambda found: abs(found[0]),
    "ceil": lambda found: float(math.ceil(found[0])),
    "floor": lambda found: float(math.floor(found[0])),
    "round": lambda found: float(math.floor(found[0] + 0.5)),
    "float": lambda found: float(found[0]),
    "int": lambda found: float(int(found[0])),
}
_SIGNS: dict[str, Callable[[Any], Any]] = {
    "-": lambda it: -it,
    "+": lambda it: it,
    "!": lambda it: not it,
    "not": lambda it: not it,
}
_BINARY: dict[str, tuple[int, Callable[[Any, Any], Any]]] = {
    "??": (1, lambda left, right: right if left is None else left),
    "||": (2, lambda left, right: left or right),
    "or": (2, lambda left, right: left or right),
    "&&": (3, lambda left, right: left and right),
    "and": (3, lambda left, right: left and right),
    "==": (4, lambda left, right: left == right),
    "!=": (4, lambda left, right: left != right),
    "<": (4, lambda left, right: left < right),
    "<=": (4, lambda left, right: left <= right),
    ">": (4, lambda left, right: left > right),
    ">=": (4, lambda left, right: left >= right),
    "+": (5, lambda left, right: left + right),
    "-": (5, lambda left, right: left - right),
    "*": (6, lambda left, right: left * right),
    "/": (6, lambda left, right: _divide(left, right)),
    "%": (6, lambda left, right: math.fmod(left, right)),
    "**": (8, lambda left, right: math.pow(left, right)),
    "^": (8, lambda left, right: math.pow(left, right)),
}


@dataclass(frozen=True)
class Formula:
    """A formula that can be computed."""

    term: Term

    def value(self, values: Values) -> float:
        """What it comes to; not a number where KEDA would not get one either."""
        try:
            found = self.term(values)
        except (ArithmeticError, ValueError, TypeError, KeyError, IndexError, RecursionError):
            return math.nan
        return float(found) if isinstance(found, (int, float)) else math.nan


def names(formula: str) -> set[str]:
    """The names in a formula that must be triggers. Raises UnknownFormulaError."""
    tokens = _tokens(formula)
    own = {tokens[at + 1][1] for at, (_, word) in enumerate(tokens[:-1]) if word == "let"}
    found = set()
    for at, (kind, word) in enumerate(tokens):
        before = tokens[at - 1][1] if at else ""
        after = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        if kind == "name" and word not in _WORDS | own and before not in (".", "?.", "#") and after != "(":
            found.add(word)
    return found


def unclosed(formula: str) -> str:
    """The first bracket that has no other, or "". Raises UnknownFormulaError."""
    pairs = {")": "(", "]": "[", "}": "{"}
    opened: list[str] = []
    for kind, word in _tokens(formula):
        if kind != "sign":
            continue
        if word in pairs.values():
            opened.append(word)
        elif word in pairs and (not opened or opened.pop() != pairs[word]):
            return word
    return opened[-1] if opened else ""


def parse(formula: str) -> Formula:
    """Read a formula. Raises UnknownFormulaError."""
    parser = _Parser(_tokens(formula))
    try:
        term = parser.choice()
    except RecursionError:
        raise UnknownFormulaError("nested too deeply") from None
    if parser.word:
        raise UnknownFormulaError(f"{parser.word!r} is not expected")
    return Formula(term)


def _tokens(formula: str) -> list[tuple[str, str]]:
    if len(formula) > MAX_LETTERS:
        raise UnknownFormulaError("too long")
    found, at = [], 0
    while formula[at:].strip():
        match = _TOKEN.match(formula, at)
        if not match or match.lastgroup is None:
            raise UnknownFormulaError(f"{formula[at : at + 10]!r} is not expected")
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found


class _Parser:
    """Operators by their strength, the usual way."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self.at = 0

    @property
    def word(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, wanted: str) -> None:
        if self.word != wanted:
            raise UnknownFormulaError(f"{wanted!r} is expected")
        self.at += 1

    def choice(self) -> Term:
        condition = self.binary(0)
        if self.word != "?":
            return condition
        self.take("?")
        yes = self.choice()
        self.take(":")
        no = self.choice()
        return lambda values: yes(values) if condition(values) else no(values)

    def binary(self, weakest: int) -> Term:
        left = self.single()
        while (found := _BINARY.get(self.word)) and found[0] > weakest:
            strength, compute = found
            self.at += 1
            # A power binds to the right, all else to the left.
            right = self.binary(strength - 1 if strength == 8 else strength)
            left = _join(compute, left, right)
        return left

    def single(self) -> Term:
        if self.at >= len(self.tokens):
            raise UnknownFormulaError("it ends too soon")
        kind, word = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            number = float(word.replace("_", ""))
            return lambda values: number
        if word in _SIGNS:
            inner = self.binary(6)
            apply = _SIGNS[word]
            return lambda values: apply(inner(values))
        if word == "(":
            inner = self.choice()
            self.take(")")
            return inner
        if word == "[":
            parts = self.several("]")
            return lambda values: [part(values) for part in parts]
        if word in ("true", "false", "nil"):
            constant = {"true": True, "false": False, "nil": None}[word]
            return lambda values: constant
        if kind != "name" or word in _WORDS:
            raise UnknownFormulaError(f"{word!r} is not expected")
        if self.word != "(":
            return lambda values: values[word]
        self.at += 1
        arguments = self.several(")")
        if word not in _FUNCTIONS or not arguments:
            raise UnknownFormulaError(f"{word}() is not known here")
        function = _FUNCTIONS[word]
        return lambda values: function([argument(values) for argument in arguments])

    def several(self, end: str) -> list[Term]:
        found: list[Term] = []
        while self.word != end:
            found.append(self.choice())
            if self.word != end:
                self.take(",")
        self.take(end)
        return found


def _join(compute: Callable[[Any, Any], Any], left: Term, right: Term) -> Term:
    return lambda values: compute(left(values), right(values))


def _divide(left: float, right: float) -> float:
    """As Go divides: by zero gives infinity or no number, and no error."""
    if right == 0:
        return math.nan if left == 0 or math.isnan(left) else math.copysign(math.inf, left)
    return left / right


def _flat(found: list[Any]) -> list[Any]:
    return [item for part in found for item in (part if isinstance(part, list) else [part])]
