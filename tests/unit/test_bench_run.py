"""What the engine bench makes of its times: rates, the floor, and what its table says of a part."""

import pytest

from bench.bandwidth import Floor, measure_bandwidth
from bench.engine_table import ways_table
from bench.run import Run
from bench.ways import Generate


def test_rates_and_first_tokens() -> None:
    run = Run(4.0, [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]], ["a", "b"], cpu_seconds=2.0)
    assert (run.jobs, run.tokens, run.tokens_per_second, run.tokens_per_cpu_second) == (2, 6, 1.5, 3.0)
    assert (run.first_token_ms(50), round(run.first_token_ms(99))) == (1500.0, 1990)
    # Both decode from 2 s, when the second has its first token, to 3 s, when the first ends.
    assert run.decoded_per_second == 2.0


def test_decoding_one_after_the_other_counts_no_prompt() -> None:
    run = Run(9.0, [[3.0, 3.5, 4.0], [8.0, 8.5, 9.0]], ["", ""], 9.0, "one by one")
    assert run.decoded_per_second == 2.0


@pytest.mark.parametrize(
    "run",
    [
        Run(2.0, [[1.0], [2.0]], ["", ""], 1.0),
        Run(4.0, [[1.0, 2.0], [3.0, 4.0]], ["", ""], 1.0),
        Run(4.0, [[1.0, 2.0], [1.0, 2.0]], ["", ""], 1.0, "seen"),
    ],
)
def test_no_rate_where_the_jobs_never_decode_together(run: Run) -> None:
    assert run.decoded_per_second is None


def test_one_job_has_one_first_token() -> None:
    assert Run(1.0, [[0.5, 1.0]], [""], 1.0).first_token_ms(99) == 500.0


def test_the_floor_reads_weights_once_and_the_cache_of_each_row() -> None:
    floor = Floor(1000.0, 500, lambda tokens: sum(10 * bound for bound in tokens))
    # Half of 8 new tokens, and one that cost() leaves out: 10 x (20 + 4 + 1) + 10 x (40 + 4 + 1)
    assert floor.cache_bytes([20, 40], 8) == 700
    assert (floor.step_seconds([20, 40], 8), round(floor.tokens_per_second([20, 40], 8), 3)) == (1.2, 1.667)


def test_a_part_that_was_measured_is_said_to_be_one() -> None:
    whole, part = Run(1.0, [[0.5, 1.0]] * 2, ["a", "b"], 1.0), Run(1.0, [[0.5, 1.0]], ["a"], 1.0, "one by one")
    floor = Floor(1000.0, 100, lambda tokens: 0)
    table = ways_table([{2: {"engine": whole, Generate.name: part}}], {2: [20, 20]}, 2, floor)
    line = next(line for line in table.splitlines() if Generate.name in line)
    assert "1 of 2 jobs" in line
    assert line.split("|")[6].strip() == ""  # the first token's p50: the others would have waited longer
    assert "the same" in table


def test_the_bandwidth_is_one() -> None:
    assert 1e8 < measure_bandwidth("cpu") < 1e13
