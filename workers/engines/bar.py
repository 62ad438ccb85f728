"""What transformers and the hub's client would draw as progress bars, as fractions instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

Report = Callable[[float], None]
"""Takes the part that is done, 0 to 1."""


@contextmanager
def watch_weights(sizes: Mapping[str, int], report: Report) -> Iterator[None]:
    """While it is entered, transformers' loading of weights is reported, by the bytes of each tensor.

    `sizes` has those of the tensors whose name is known; others count as the mean of these.
    """
    from transformers.utils import logging

    mean = sum(sizes.values()) / len(sizes) if sizes else 1.0

    def walk(items: Any) -> Iterator[Any]:
        total = sum(sizes.get(name, mean) for name, _ in items) or 1.0
        done = 0.0
        for name, mapping in items:
            yield name, mapping
            done += sizes.get(name, mean)
            report(min(1.0, done / total))

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        loads = args and isinstance(args[0], type({}.items())) and kwargs.get("desc") == "Loading weights"
        return walk(args[0]) if loads else factory(*args, **kwargs)

    previous = logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)


def make_download_bar(total_bytes: int, report: Report) -> type[Any]:
    """A class that the hub's client takes for its progress bars: of those that count bytes the furthest is reported."""
    furthest = 0.0

    class Bar(tqdm):
        """Draws nothing."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})
            self._counts_bytes = kwargs.get("unit") == "B"

        def update(self, n: float | None = 1) -> None:
            """Count, which a disabled bar of tqdm does not."""
            nonlocal furthest
            self.n += n or 0
            if self._counts_bytes and total_bytes:
                furthest = max(furthest, min(1.0, self.n / total_bytes))
                report(furthest)

    return Bar
