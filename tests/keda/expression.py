"""The part of expr-lang's language that a formula of ours may use.

Follows expr-lang/expr docs/language-definition.md and parser/operator/operator.go. `/` always divides as floats do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

Value = float | bool

_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|[A-Za-z_]\w*|&&|\|\||[<>=!]=|[-+*/%<>!?:(),])")
_WORDS = {"and": "&&", "or": "||", "not": "!"}
_BINARY: tuple[Mapping[str, Callable[[float, float], Value]], ...] = (
    {"||": lambda a, b: bool(a or b)},
    {"&&": lambda a, b: bool(a and b)},
    {
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        "<": lambda a, b: a < b,
        ">": lambda a, b: a > b,
        "<=": lambda a, b: a <= b,
        ">=": lambda a, b: a >= b,
    },
    {"+": lambda a, b: a + b, "-": lambda a, b: a - b},
    {"*": lambda a, b: a * b, "/": lambda a, b: _divide(a, b), "%": lambda a, b: math.fmod(a, b)},
)
"""From what binds least to what binds most."""
_CALLS: Mapping[str, Callable[..., float]] = {
    "max": max,
    "min": min,
    "abs": abs,
    "ceil": math.ceil,
    "floor": math.floor,
    "float": float,
}


class ExpressionError(Exception):
    """The formula is not of the language, or names something that there is not."""


def evaluate(formula: str, values: Mapping[str, float]) -> float:
    """The formula's value. Raises ExpressionError, also where the result is no number."""
    reader = _Reader(_tokens(formula), values)
    result = reader.choice()
    if reader.next is not None:
        raise ExpressionError(f"{reader.next!r} is left over in {formula!r}")
    if isinstance(result, bool):
        raise ExpressionError(f"{formula!r} is no number")
    return float(result)


def _tokens(formula: str) -> list[str]:
    tokens, at, text = [], 0, formula.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ExpressionError(f"{text[at:]!r} cannot be read")
        tokens.append(_WORDS.get(match[1], match[1]))
        at = match.end()
    return tokens


def _divide(a: float, b: float) -> float:
    if b:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)


class _Reader:
    """Reads and computes in one go: both sides of a choice are computed, which changes nothing without side effects."""

    def __init__(self, tokens: list[str], values: Mapping[str, float]) -> None:
        self._tokens, self._values = tokens, values

    @property
    def next(self) -> str | None:
        return self._tokens[0] if self._tokens else None

    def choice(self) -> Value:
        """`a ? b : c`, which binds least of all."""
        condition = self._binary(0)
        if self.next != "?":
            return condition
        self._take("?")
        if not isinstance(condition, bool):
            raise ExpressionError("what stands before ? must be true or false")
        first = self.choice()
        self._take(":")
        second = self.choice()
        return first if condition else second

    def _binary(self, level: int) -> Value:
        if level == len(_BINARY):
            return self._unary()
        left = self._binary(level + 1)
        while self.next is not None and self.next in _BINARY[level]:
            operator = _BINARY[level][self._take()]
            left = operator(left, self._binary(level + 1))
        return left

    def _unary(self) -> Value:
        token = self._take()
        if token == "-":
            return -self._unary()
        if token == "!":
            return not self._unary()
        if token == "(":
            value = self.choice()
            self._take(")")
            return value
        if token[0].isdigit():
            return float(token)
        if token in _CALLS and self.next == "(":
            return self._call(token)
        if token in self._values:
            return float(self._values[token])
        raise ExpressionError(f"there is no {token!r}")

    def _call(self, name: str) -> float:
        self._take("(")
        arguments = [self.choice()]
        while self.next == ",":
            self._take(",")
            arguments.append(self.choice())
        self._take(")")
        return float(_CALLS[name](*arguments))

    def _take(self, expected: str | None = None) -> str:
        if self.next is None or expected not in (None, self.next):
            raise ExpressionError(f"{expected or 'more'} is missing before {self.next!r}")
        return self._tokens.pop(0)
