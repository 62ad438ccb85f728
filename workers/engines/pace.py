"""How many prompt tokens go into one step, so that those who already decode are not kept waiting."""

from __future__ import annotations

STEP_SECONDS = 0.25
"""What a step with prompt tokens in it should take."""
FIRST_TOKENS = 64
FEWEST_TOKENS = 16
MOST_TOKENS = 4096
MOST_CHANGE = 4
"""By one step, up or down: a machine that stood still meanwhile, or ran ahead, says little."""
NOTED_TOKENS = 16
"""Steps of fewer tokens say little of what a token costs: there, reading the weights takes most of the time."""
GATHER_SECONDS = 0.1
"""So long new prompts wait at most for others to share a step with, while decode steps are replayed as CUDA graphs."""
QUIET_SECONDS = 0.02
"""Once no job has come for so long, none is waited for."""


class Pace:
    """Learns from each step with prompts how many tokens fit into one.

    A step costs something for itself, and something for each token: so what fits is at least what a token's share of
    a step says, and more of it is known to be too much only once a step has taken too long.
    """

    def __init__(self) -> None:
        self._tokens = float(FIRST_TOKENS)
        self._gather_until = float("-inf")

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens for the next step, of all jobs together."""
        return max(FEWEST_TOKENS, min(MOST_TOKENS, int(self._tokens)))

    def note(self, tokens: int, seconds: float) -> None:
        """Learn that a step of so many tokens, some of them prompts', took so long."""
        if tokens < NOTED_TOKENS or seconds <= 0:
            return
        fit = STEP_SECONDS * tokens / seconds
        if fit > self._tokens:
            self._tokens = min(fit, MOST_CHANGE * self._tokens, MOST_TOKENS)
        elif seconds > STEP_SECONDS:
            self._tokens = max(fit, self._tokens / MOST_CHANGE, FEWEST_TOKENS)

    def rest(self, seconds: float, now: float) -> None:
        """Learn that a step with prompts in it took so long, up to now: for as long the next ones may wait."""
        self._gather_until = now + min(GATHER_SECONDS, seconds)

    def gathers(self, tokens: int, newest: float, now: float) -> bool:
        """Whether prompts of so many tokens wait for more, if the `newest` job came then.

        A step with prompts is launched piece by piece and keeps the interpreter busy, so that jobs which come one after
        the other would come slowly, and cost a step each. A step's worth of tokens never waits.
        """
        return now < self._gather_until and now < newest + QUIET_SECONDS and tokens < self.prompt_tokens
