"""What a worker or a deliverer counts and measures of itself, for Prometheus; docs/metrics.md says what it means.

Whoever does something tells it here by a verb; what merely stands (slots, gate, memory) is looked at as one scrapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nowserving import errors
from nowserving.answer import Suspect, Taken, Unfit
from nowserving.errors import NowservingError
from workers.gate import Closed

# Else each counter and histogram has a second series that says since when it counts.
disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types

JOB_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""From a prompt that is answered at once to the longest a job runs by default, in seconds."""
ATTEMPT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60)

CODES = frozenset(
    kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, NowservingError)
)
CAUSES = CODES | {"does_not_fit", "drained", "engine", "not_consuming", *(f"gate_closed_{why}" for why in Closed)}
OTHER = "other"
"""A user's engine may have errors with codes of its own, as many as it likes."""

SIZES = {
    "promised_bytes": "What running jobs may take, by the engine's own count.",
    "budget_bytes": "What all running jobs may be promised.",
    "room_bytes": "What may still be taken, as measured.",
    "device_allocated_bytes": "What this process holds of the device.",
    "device_used_bytes": "What all processes hold of the device.",
    "device_free_bytes": "What this process could still get of the device.",
    "device_total_bytes": "The device's memory.",
    "device_limit_bytes": "What may be used before the gate closes.",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """How a worker stands now. `sizes`: those of SIZES that are known."""

    ready: bool
    slots: int
    running: int
    closed: Closed | None
    idle_seconds: float
    sizes: Mapping[str, int] = field(default_factory=dict)


class Metrics:
    """What all that take have in common. No verb of these raises or waits for more than a short lock."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._registry = CollectorRegistry()
        takes = self._counter("worker_takes", "Times that the queue was asked, by what it answered.", "result")
        self._takes = {word: takes.labels(model, word) for word in ("taken", "empty", "unfit", "suspect", "failed")}
        self._taken = self._counter("worker_taken", "Jobs taken.").labels(model)
        decisions = self._counter("worker_gate_decisions", "Times that the gate was asked, by its answer.", "reason")
        self._decisions = {why: decisions.labels(model, why or "open") for why in (None, *Closed)}
        handed_back = "Jobs taken and not brought to an end here, by why they went back."
        self._handed_back = self._counter("worker_handed_back", handed_back, "cause")
        lost = self._counter("worker_leases_lost", "Claims that ended before their jobs had.", "reason")
        self._lost = {why: lost.labels(model, why) for why in ("ended", "lapsed")}
        self._beats_failed = self._counter("worker_heartbeat_failures", "Heartbeats that failed.").labels(model)

    def watch(self, look: Callable[[], Figures]) -> None:
        """Ask for the rest as one scrapes."""
        self._registry.register(_Standing(self.model, look))

    def write(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self._registry)

    def took(self, answer: tuple[Taken, ...] | Unfit | Suspect | None) -> None:
        """The queue has answered a take; None: it has not."""
        if isinstance(answer, Unfit | Suspect):
            self._takes["unfit" if isinstance(answer, Unfit) else "suspect"].inc()
        elif answer is None:
            self._takes["failed"].inc()
        else:
            self._takes["taken" if answer else "empty"].inc()
            self._taken.inc(len(answer))

    def judged(self, closed: Closed | None) -> None:
        """The gate has been asked."""
        self._decisions[closed].inc()

    def handed_back(self, cause: str) -> None:
        """A job that was taken goes back."""
        self._handed_back.labels(self.model, cause if cause in CAUSES else OTHER).inc()

    def lost(self, lapsed: bool) -> None:
        """A claim is no longer valid: by this worker's own clock (`lapsed`), or Redis says so."""
        self._lost["lapsed" if lapsed else "ended"].inc()

    def missed_beat(self) -> None:
        """A heartbeat has failed."""
        self._beats_failed.inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"nowserving_{name}", text, ("model", *labels), registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = JOB_BUCKETS) -> Histogram:
        made = Histogram(f"nowserving_{name}", text, ("model",), registry=self._registry, buckets=buckets)
        return made.labels(self.model)


class JobMetrics(Metrics):
    """A worker's."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._waited = self._histogram("job_queue_wait_seconds", "From a job's acceptance till it was first taken.")
        self._first = self._histogram("job_time_to_first_token_seconds", "From acceptance till the first token.")
        self._prefilled = self._histogram("job_prefill_seconds", "From the engine's getting a job till a new token.")
        self._ran = self._histogram("job_run_seconds", "From the take till the end of a job that ended here.")
        self._ended = self._counter("worker_jobs_ended", "Jobs brought to an end.", "status", "code")
        self._ended.labels(model, "succeeded", "")
        self._made = self._counter("worker_tokens", "Tokens made.").labels(model)
        self._read = self._counter("worker_prompt_tokens", "Tokens of the prompts read.").labels(model)
        self._charged = self._counter("worker_attempts", "Attempts charged: prefills that began.").labels(model)
        patches = self._counter("worker_pod_patches", "Writes on its own pod, by what came of it.", "result")
        self._patches = {word: patches.labels(model, word) for word in ("ok", "refused", "failed")}

    def started(self, waited_seconds: float) -> None:
        """A job that nobody had before begins to run."""
        self._waited.observe(waited_seconds)

    def began(self, prompt_tokens: int) -> None:
        """The engine reads a prompt."""
        self._charged.inc()
        self._read.inc(prompt_tokens)

    def made(self, tokens: int) -> None:
        """The engine has made tokens."""
        self._made.inc(tokens)

    def made_first(self, prefill_seconds: float, since_accepted_seconds: float | None) -> None:
        """The first token of an attempt; and of the job, if it is known how long ago that was accepted."""
        self._prefilled.observe(prefill_seconds)
        if since_accepted_seconds is not None:
            self._first.observe(since_accepted_seconds)

    def ended(self, status: str, code: str, ran_seconds: float) -> None:
        """A job has come to its end."""
        self._ended.labels(self.model, status, code if code in CODES or not code else OTHER).inc()
        self._ran.observe(ran_seconds)

    def patched(self, result: str) -> None:
        """The pod was written on: "ok", or it was "refused", or "failed"."""
        self._patches[result].inc()


class DeliveryMetrics(Metrics):
    """A deliverer's."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._sent = self._histogram("deliverer_attempt_seconds", "What an attempt took.", ATTEMPT_BUCKETS)
        self._attempts = self._counter("deliverer_attempts", "Attempts, by the answer's status.", "status")
        self._settled = self._counter("deliverer_deliveries", "What became of webhooks after an attempt.", "outcome")

    def attempted(self, status: int | None, seconds: float) -> None:
        """An attempt was made; `status` is None without an answer, `seconds` 0 if nothing was sent."""
        word = "none" if status is None else f"{status // 100}xx" if 100 <= status < 600 else OTHER
        self._attempts.labels(self.model, word).inc()
        if seconds:
            self._sent.observe(seconds)

    def settled(self, outcome: str) -> None:
        """It was delivered, is dead, stopped, or to be tried again ("retry"); "lost": the claim was."""
        self._settled.labels(self.model, outcome).inc()


class _Standing(Collector):
    def __init__(self, model: str, look: Callable[[], Figures]) -> None:
        self._model, self._look = model, look

    def collect(self) -> Iterable[Metric]:
        figures = self._look()
        yield self._gauge("ready", "Whether it is loaded.", figures.ready)
        yield self._gauge("slots", "Jobs that it can run at once.", figures.slots)
        yield self._gauge("running", "Jobs that it has taken and not ended.", figures.running)
        yield self._gauge("gate_open", "Whether it may take one more job.", figures.closed is None)
        closed = GaugeMetricFamily("nowserving_worker_gate_closed", "Why not.", labels=("model", "reason"))
        for why in Closed:
            closed.add_metric((self._model, why), figures.closed is why)
        yield closed
        idle = CounterMetricFamily("nowserving_worker_idle_seconds", "In which it ran nothing.", labels=("model",))
        idle.add_metric((self._model,), figures.idle_seconds)
        yield idle
        for name, text in SIZES.items():
            yield self._gauge(name, text, figures.sizes.get(name))

    def _gauge(self, name: str, text: str, figure: float | None) -> Metric:
        family = GaugeMetricFamily(f"nowserving_worker_{name}", text, labels=("model",))
        if figure is not None:
            family.add_metric((self._model,), figure)
        return family
