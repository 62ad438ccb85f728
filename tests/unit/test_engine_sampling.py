import math

import pytest
import torch

from workers.engines import sampling
from workers.engines.sampling import Choice, pick, uniform

DRAWS = 4000


def choice(index: int = 0, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, seed: int = 7) -> Choice:
    return Choice(temperature, top_k, top_p, seed, index)


def shares(logits: list[float], **options: float) -> list[float]:
    rows = torch.tensor([logits]).expand(DRAWS, -1)
    picked = pick(rows, [choice(index, **options) for index in range(DRAWS)])  # type: ignore[arg-type]
    return [picked.count(token) / DRAWS for token in range(len(logits))]


def test_uniform_numbers_are_uniform_and_depend_on_both() -> None:
    numbers = [uniform(3, index) for index in range(DRAWS)]
    assert all(0 <= number < 1 for number in numbers)
    assert sum(numbers) / DRAWS == pytest.approx(0.5, abs=0.02)
    assert len(set(numbers)) == DRAWS
    assert uniform(3, 1) != uniform(1, 3)
    assert uniform(2**63 - 1, 10**6) == uniform(2**63 - 1, 10**6)


def test_frequencies_follow_the_distribution() -> None:
    probabilities = [0.5, 0.25, 0.15, 0.1]
    logits = [math.log(p) for p in probabilities]
    assert shares(logits) == pytest.approx(probabilities, abs=0.03)
    squared = [p * p / sum(q * q for q in probabilities) for p in probabilities]
    assert shares(logits, temperature=0.5) == pytest.approx(squared, abs=0.03)


def test_filters_cut_and_renormalise() -> None:
    logits = [math.log(p) for p in (0.1, 0.5, 0.15, 0.25)]
    assert shares(logits, top_k=2) == pytest.approx([0, 2 / 3, 0, 1 / 3], abs=0.03)
    assert shares(logits, top_p=0.74) == pytest.approx([0, 2 / 3, 0, 1 / 3], abs=0.03)
    assert shares(logits, top_p=0.76) == pytest.approx([0, 0.5 / 0.9, 0.15 / 0.9, 0.25 / 0.9], abs=0.03)
    assert shares(logits, top_p=0.01) == [0, 1, 0, 0]
    assert shares(logits, top_k=2, top_p=0.6) == [0, 1, 0, 0]  # 0.5 is 2/3 of what top_k leaves
    assert shares(logits, top_k=10) == pytest.approx([0.1, 0.5, 0.15, 0.25], abs=0.03)


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 5}, {"top_k": 40}, {"top_p": 0.3}, {"top_p": 0.99}, {"top_k": 30, "top_p": 0.9}]
)
def test_few_candidates_pick_what_the_whole_vocabulary_would(
    options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(64, 200, generator=torch.Generator().manual_seed(0)).round(decimals=1)  # many ties
    choices = [choice(index, **options) for index in range(64)]  # type: ignore[arg-type]
    whole = pick(logits, choices)
    monkeypatch.setattr(sampling, "CANDIDATES", 16)
    assert pick(logits, choices) == whole


def test_a_row_is_picked_alike_alone_and_among_others() -> None:
    logits = torch.randn(40, 300, generator=torch.Generator().manual_seed(1))
    choices = [choice(i, [0.0, 0.7, 1.3][i % 3], [0, 0, 20][i % 3], [1.0, 0.8][i % 2], seed=i) for i in range(40)]
    assert pick(logits, choices) == [pick(logits[i : i + 1], choices[i : i + 1])[0] for i in range(40)]


def test_greedy_takes_the_likeliest() -> None:
    logits = torch.randn(9, 50, generator=torch.Generator().manual_seed(2))
    assert pick(logits, [choice(i, temperature=0.0) for i in range(9)]) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("options", [{"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}])
def test_only_the_row_without_a_distribution_gets_none(bad: float, options: dict[str, float]) -> None:
    logits = torch.zeros(3, 20)
    logits[:, 4] = 50.0
    logits[1, 7] = bad
    assert pick(logits, [choice(i, **options) for i in range(3)]) == [4, None, 4]  # type: ignore[arg-type]


def test_tokens_ruled_out_are_never_drawn() -> None:
    logits = torch.full((50, 10), -math.inf)
    logits[:, 3] = 0.0
    assert pick(logits, [choice(i) for i in range(50)]) == [3] * 50
