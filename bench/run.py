"""What came of some jobs that were submitted at once: when each token came, and the texts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Literal


@dataclass(frozen=True, slots=True)
class Run:
    """Times are seconds since the first job was submitted; `token_seconds` has a list for each job."""

    seconds: float
    token_seconds: Sequence[Sequence[float]]
    texts: Sequence[str]
    cpu_seconds: float
    """Of all processes that the answers took, the clients' left out; 0 where that is not known."""
    how: Literal["one by one", "together", "seen"] = "together"
    """`seen`: together, but watched from outside, where tokens come in packs."""

    @property
    def jobs(self) -> int:
        """How many there were."""
        return len(self.token_seconds)

    @property
    def tokens(self) -> int:
        """What all of them made."""
        return sum(map(len, self.token_seconds))

    @property
    def tokens_per_second(self) -> float:
        """From the first job's submission to the last one's end: prompts and all waiting count."""
        return self.tokens / self.seconds

    @property
    def tokens_per_cpu_second(self) -> float:
        """What a busy machine distorts least."""
        return self.tokens / self.cpu_seconds if self.cpu_seconds else 0.0

    def first_token_ms(self, percent: int) -> float:
        """So many percent of the jobs had their first token by then."""
        firsts = [times[0] * 1000 for times in self.token_seconds]
        return firsts[0] if len(firsts) == 1 else quantiles(firsts, n=100, method="inclusive")[percent - 1]

    @property
    def decoded_per_second(self) -> float | None:
        """Tokens/s while all jobs decode: no prompt is read, none has ended. None if there is no such time.

        Of jobs one after the other: what each makes after its first token.
        """
        if self.how == "seen":
            return None
        if self.how == "one by one":
            made = sum(len(times) - 1 for times in self.token_seconds)
            spent = sum(times[-1] - times[0] for times in self.token_seconds)
        else:
            begin = max(times[0] for times in self.token_seconds)
            end = min(times[-1] for times in self.token_seconds)
            made = sum(begin < at <= end for times in self.token_seconds for at in times)
            spent = end - begin
        return made / spent if made and spent > 0 else None
