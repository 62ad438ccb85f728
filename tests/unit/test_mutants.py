import pytest

from tests.mutation.mutant import ROOT, Mutant, read_mutants

MUTANTS = read_mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_each_mutant_fits_the_code_and_names_a_test(mutant: Mutant) -> None:
    assert mutant.find(ROOT) == 1
    file, _, name = mutant.test.partition("::")
    text = (ROOT / file).read_text()
    assert not name or f"def {name.partition('[')[0]}(" in text


def test_every_promise_of_the_queue_has_a_mutant() -> None:
    assert {mutant.promise for mutant in MUTANTS} >= set(range(1, 10))
