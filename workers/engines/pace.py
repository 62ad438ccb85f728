"""How many prompt tokens go into one step, so that those who already decode are not kept waiting."""

from __future__ import annotations

STEP_SECONDS = 0.25
"""What a step with prompt tokens in it should take."""
FIRST_TOKENS = 64
FEWEST_TOKENS = 16
MOST_TOKENS = 4096
NOTED_TOKENS = 16
"""Steps of fewer tokens say little of what a token costs: there, reading the weights takes most of the time."""
GATHER_SECONDS = 0.1
"""So long new prompts wait at most for others to share a step with, while decode steps are replayed."""


class Pace:
    """Learns from each step what a token costs; the latest steps weigh most."""

    def __init__(self) -> None:
        self._seconds_per_token = STEP_SECONDS / FIRST_TOKENS
        self._gather_until = float("-inf")

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens for the next step, of all jobs together."""
        return max(FEWEST_TOKENS, min(MOST_TOKENS, int(STEP_SECONDS / self._seconds_per_token)))

    def note(self, tokens: int, seconds: float) -> None:
        """Learn that a step of so many tokens took so long."""
        if tokens >= NOTED_TOKENS and seconds > 0:
            self._seconds_per_token += 0.5 * (seconds / tokens - self._seconds_per_token)

    def rest(self, seconds: float, now: float) -> None:
        """Learn that a step with prompts in it took so long, up to now: for as long the next ones may wait."""
        self._gather_until = now + min(GATHER_SECONDS, seconds)

    def gathers(self, tokens: int, now: float) -> bool:
        """Whether prompts of so many tokens wait for more.

        A step with prompts is launched piece by piece and keeps the interpreter busy, so that jobs which come one after
        the other would come slowly, and cost a step each. A step's worth of tokens never waits.
        """
        return now < self._gather_until and tokens < self.prompt_tokens
