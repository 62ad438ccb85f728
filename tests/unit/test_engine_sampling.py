import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from workers.engines import sampling
from workers.engines.sampling import Choice, Seen, pick, uniform

DRAWS = 4000


def choice(
    index: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 7,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seen: Sequence[int] = (),
) -> Choice:
    return Choice(temperature, top_k, top_p, seed, index, min_p, repetition_penalty, Seen(seen).ids)


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
    assert shares(logits, min_p=0.31) == pytest.approx([0, 2 / 3, 0, 1 / 3], abs=0.03)
    assert shares(logits, min_p=0.29) == pytest.approx([0, 0.5 / 0.9, 0.15 / 0.9, 0.25 / 0.9], abs=0.03)
    assert shares(logits, min_p=1) == [0, 1, 0, 0]
    assert shares(logits, top_k=3, min_p=0.4) == pytest.approx([0, 2 / 3, 0, 1 / 3], abs=0.03)
    assert shares(logits, top_k=10) == pytest.approx([0.1, 0.5, 0.15, 0.25], abs=0.03)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 5},
        {"top_k": 40},
        {"top_p": 0.3},
        {"top_p": 0.99},
        {"top_k": 30, "top_p": 0.9},
        {"min_p": 0.6},
        {"min_p": 0.01},
        {"min_p": 0.5, "top_p": 0.7},
        {"min_p": 0.1, "top_k": 40},
        {"min_p": 0.2, "top_p": 0.99, "temperature": 2.0},
        {"min_p": 0.5, "top_k": 100, "top_p": 0.3},
    ],
)
def test_few_candidates_pick_what_the_whole_vocabulary_would(
    options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(64, 200, generator=torch.Generator().manual_seed(0)).round(decimals=1)  # many ties
    choices = [choice(index, **options) for index in range(64)]  # type: ignore[arg-type]
    whole = pick(logits, choices)
    monkeypatch.setattr(sampling, "CANDIDATES", 16)
    assert pick(logits, choices) == whole


def likely(index: int) -> dict[str, float]:
    """Parameters of one of many jobs: each alone, and all mixed."""
    return {
        "temperature": [0.0, 0.7, 1.0, 1.6][index % 4],
        "top_k": [0, 0, 12, 150][index // 4 % 4],
        "top_p": [1.0, 0.9, 0.4][index // 16 % 3],
        "min_p": [0.0, 0.05, 0.3][index // 48 % 3],
        "repetition_penalty": [1.0, 1.3, 0.8, 5.0][index // 5 % 4],
    }


def theirs(logits: torch.Tensor, seen: Sequence[int], options: dict[str, float]) -> torch.Tensor:
    """The logits of one row after transformers' processors, in the order of its `generate`."""
    used: list[tuple[str, float, Any]] = [
        ("repetition_penalty", 1.0, RepetitionPenaltyLogitsProcessor),
        ("temperature", 0.0, TemperatureLogitsWarper),
        ("top_k", 0, TopKLogitsWarper),
        ("top_p", 1.0, TopPLogitsWarper),
        ("min_p", 0.0, MinPLogitsWarper),
    ]
    if not options["temperature"]:
        used = used[:1]
    processors = LogitsProcessorList([make(options[name]) for name, none, make in used if options[name] != none])
    return processors(torch.tensor([seen]), logits[None])[0]  # type: ignore[arg-type]


def draw(scores: torch.Tensor, options: dict[str, float], index: int) -> int:
    if not options["temperature"]:
        return int(scores.argmax())
    filtered = options["top_k"] or options["top_p"] < 1 or options["min_p"]
    shares = scores.softmax(-1).double()
    order = shares.sort(descending=True, stable=True).indices if filtered else torch.arange(len(shares))
    edges = shares[order].cumsum(-1)
    return int(order[torch.searchsorted(edges, uniform(7, index) * edges[-1], right=True)])


@pytest.mark.parametrize("candidates", [8, 1024])
def test_tokens_are_those_of_transformers_own_processors(candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "CANDIDATES", candidates)
    chance = torch.Generator().manual_seed(3)
    logits = torch.randn(576, 200, generator=chance) * 3
    seen = [torch.randint(200, (1 + index % 90,), generator=chance).tolist() for index in range(576)]
    choices = [choice(index, seen=seen[index], **likely(index)) for index in range(576)]  # type: ignore[arg-type]
    expected = [draw(theirs(logits[index], seen[index], likely(index)), likely(index), index) for index in range(576)]
    assert pick(logits, choices) == expected


@pytest.mark.parametrize("penalty", [0.5, 1.1, 1.3, 10.0])
def test_penalized_logits_are_transformers_to_the_last_bit(penalty: float) -> None:
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(4)) * 10
    before = logits.clone()
    seen = [[7, 7, 299, 0], [5], list(range(300)), [1, 2, 3], [4]]
    choices = [choice(seen=ids, repetition_penalty=penalty if row != 3 else 1.0) for row, ids in enumerate(seen)]
    ours = sampling._penalize(logits, choices)
    expected = [
        RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), logits[row : row + 1].clone())[0]
        for row, ids in enumerate(seen)
    ]
    expected[3] = logits[3]
    assert torch.equal(ours, torch.stack(expected))
    assert torch.equal(logits, before)


def test_what_nobody_has_asked_for_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(5))
    assert sampling._penalize(logits, [choice(index) for index in range(3)]) is logits
    monkeypatch.setattr(sampling, "_sample_filtered", None)
    assert None not in pick(logits, [choice(index, temperature=index % 2) for index in range(3)])


@given(st.lists(st.integers(0, 300), max_size=20), st.lists(st.integers(0, 300), max_size=200))
def test_seen_tokens_are_kept_once(prompt: list[int], made: list[int]) -> None:
    seen = Seen(prompt)
    for token in made:
        seen.add(token)
    assert sorted(seen.ids.tolist()) == sorted({*prompt, *made})


def test_a_penalty_that_leaves_no_number_fails_its_row_alone() -> None:
    logits = torch.ones(3, 20)
    logits[:, 4] = 50.0
    choices = [choice(index, repetition_penalty=1e-45 if index == 1 else 2.0, seen=[4, 5]) for index in range(3)]
    assert pick(logits, choices) == [4, None, 4]


def test_a_row_is_picked_alike_alone_and_among_others() -> None:
    logits = torch.randn(40, 300, generator=torch.Generator().manual_seed(1))
    choices = [
        choice(
            i,
            [0.0, 0.7, 1.3][i % 3],
            [0, 0, 20][i % 3],
            [1.0, 0.8][i % 2],
            i,
            [0.0, 0.1][i // 2 % 2],
            [1.0, 1.2, 0.9][i // 4 % 3],
            range(i, 5 * i),
        )
        for i in range(40)
    ]
    assert pick(logits, choices) == [pick(logits[i : i + 1], choices[i : i + 1])[0] for i in range(40)]


def test_greedy_takes_the_likeliest() -> None:
    logits = torch.randn(9, 50, generator=torch.Generator().manual_seed(2))
    assert pick(logits, [choice(i, temperature=0.0) for i in range(9)]) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("options", [{"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.5}])
def test_only_the_row_without_a_distribution_gets_none(bad: float, options: dict[str, float]) -> None:
    logits = torch.zeros(3, 20)
    logits[:, 4] = 50.0
    logits[1, 7] = bad
    assert pick(logits, [choice(i, **options) for i in range(3)]) == [4, None, 4]  # type: ignore[arg-type]


def test_tokens_ruled_out_are_never_drawn() -> None:
    logits = torch.full((50, 10), -math.inf)
    logits[:, 3] = 0.0
    assert pick(logits, [choice(i) for i in range(50)]) == [3] * 50
