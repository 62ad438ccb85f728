"""The one error of the benchmark: a measurement that cannot be trusted stops the run and says why."""


class BenchError(Exception):
    """A stack did not start, died, answered wrongly or never finished."""
