"""Makes the decoder of a model on a CUDA device, and lets it run only what has given the right numbers there."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence

import torch

from workers.engines.attention import Attention, PackedAttention, Segment
from workers.engines.cache import JobCache
from workers.engines.decode import Capture, Decoder, Kernel, Replay, bucket
from workers.engines.failure import first_line
from workers.engines.forward import forward
from workers.engines.model import LOOSE_TOLERANCE, TOLERANCES, LoadedModel
from workers.engines.scoring import Scoring

log = logging.getLogger(__name__)

PROBE_TOKENS = (1, 20, 300)
"""Prompts of the check: an almost empty cache, a short one, and one that a kernel splits."""
PROBE_STEPS = 4
ATTENTION_TOLERANCES = {torch.float32: 1e-3}
LOOSE_ATTENTION_TOLERANCE = 0.03
"""How far attention may be from sdpa's on the same numbers, as a part of the largest."""


def make_decoder(loaded: LoadedModel, slots: int) -> Decoder | None:
    """A decoder for steps of up to `slots` rows, checked; None off CUDA, or with a line in the log if it is not right.

    Call it on the thread that will run the loop. Raises torch.AcceleratorError if the device is lost.
    """
    if loaded.device.type != "cuda":
        return None
    torch.cuda.set_device(loaded.device)  # Triton launches on the thread's current device

    def kernel() -> Kernel:
        from workers.engines.kernel import TritonKernel

        heads = int(loaded.model.config.get_text_config().num_attention_heads)
        return TritonKernel(loaded.layout, heads, slots)

    return assemble(loaded, slots, kernel, CudaCapture(loaded.device))


@torch.inference_mode()
def assemble(loaded: LoadedModel, slots: int, make_kernel: Callable[[], Kernel], capture: Capture) -> Decoder | None:
    """Put a decoder together as far as it passes its checks, against each job's attention by itself."""
    failure: str
    try:
        decoder = Decoder(loaded, slots, make_kernel())
        check = _Check(loaded, decoder, slots)
        failure = check.attention()
    except Exception as error:
        failure = _reason(error, loaded.device)
    if failure:
        log.warning("jobs decode one after the other, which is slower: the batched attention is not used: %s", failure)
        return None
    try:
        decoder.capture(capture)
        failure = check.replays()
    except Exception as error:
        failure = _reason(error, loaded.device)
    if failure:
        decoder.release()
        log.warning(
            "decode steps are launched one kernel after the other, which is slower: no CUDA graphs: %s", failure
        )
    return decoder


def _reason(error: Exception, device: torch.device) -> str:
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # raises again if it was the device's end, not the attempt's
    return f"{type(error).__name__}: {first_line(error)}"


class CudaCapture:
    """Records CUDA graphs that share one pool of memory, which is right as long as no two are replayed at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self.held_bytes = 0

    def __call__(self, work: Callable[[], None]) -> Replay:
        """See Capture. Raises RuntimeError if `work` waits for the device, which a graph cannot."""
        held = self._reserved_bytes()
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        before = torch.cuda.get_sync_debug_mode()
        with torch.cuda.stream(self._stream):
            work()  # compiles, and gives the libraries their workspaces outside the graph
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Synchronization debug mode")  # is a prototype: it serves here
                torch.cuda.set_sync_debug_mode("error")  # a clean exception, where a capture would break off
            try:
                work()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads go on: by default their allocations would break the capture. The outer context gives the stream
        # back where the inner one, when a capture fails, does not.
        with (
            torch.cuda.stream(current),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            work()
        self.held_bytes += self._reserved_bytes() - held
        return graph.replay

    def _reserved_bytes(self) -> int:
        torch.cuda.empty_cache()
        return int(torch.cuda.memory_reserved(self._device))


class _Compared:
    """Attends twice, each way with caches of its own, and goes on with the first way's numbers."""

    def __init__(self, own: Attention, batched: Attention, dtype: torch.dtype) -> None:
        self._own, self._batched = own, batched
        self._tolerance = ATTENTION_TOLERANCES.get(dtype, LOOSE_ATTENTION_TOLERANCE)
        self.wrong = ""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scoring: Scoring,
    ) -> torch.Tensor:
        """See Attention."""
        own = self._own.attend(layer, query, key, value, scoring)
        apart = _apart(self._batched.attend(layer, query, key, value, scoring), own)
        # The other way rounds scores to the model's dtype before it caps them.
        if not apart <= (self._tolerance if scoring.softcap is None else 3 * self._tolerance):
            self.wrong = f"in layer {layer} it differs by {apart:.1%} from that of each job by itself"
        return own


class _Check:
    """Runs a few jobs both ways, token by token. Each answer is what is wrong, or ""."""

    def __init__(self, loaded: LoadedModel, decoder: Decoder, slots: int) -> None:
        self._loaded, self._decoder, self._slots = loaded, decoder, slots
        self._ends = [min(tokens, loaded.context_tokens - PROBE_STEPS) for tokens in PROBE_TOKENS[-slots:]]
        self._own = [JobCache(loaded.layout, end + PROBE_STEPS) for end in self._ends]
        self._batched = [JobCache(loaded.layout, end + PROBE_STEPS) for end in self._ends]
        self._ids = [(7919 * place + 13) % loaded.vocabulary for place in range(max(self._ends) + PROBE_STEPS)]
        for own in self._own:
            own.memory.zero_()
        self._forward([Segment(own, 0, self._ids[:end]) for own, end in zip(self._own, self._ends, strict=True)])
        for own, batched in zip(self._own, self._batched, strict=True):
            batched.memory.copy_(own.memory)

    def attention(self) -> str:
        """All decode steps but the last: the same attention, and the same keys and values kept."""
        for _ in range(PROBE_STEPS - 1):
            own, batched = self._next(self._own), self._next(self._batched)
            compared = _Compared(PackedAttention(own), self._decoder.attention(batched), self._loaded.layout.dtype)
            self._forward(own, compared)
            if compared.wrong:
                return compared.wrong
            self._ends = [end + 1 for end in self._ends]
        for own_cache, batched_cache in zip(self._own, self._batched, strict=True):
            if not torch.equal(own_cache.memory, batched_cache.memory):
                return "it does not keep the keys and values it is given"
        return ""

    def replays(self) -> str:
        """The last step, in batches of every size. Jobs stand in them many times: they write the same numbers."""
        own = self._forward(self._next(self._own))
        for rows in sorted({bucket(rows, self._slots) for rows in range(1, self._slots + 1)}):
            batch = [index % len(self._ends) for index in range(rows)]
            segments = self._next(self._batched)
            ours = self._decoder.forward([segments[index] for index in batch], [True] * rows)
            apart = _apart(ours, own[batch])
            if not apart <= TOLERANCES.get(self._loaded.layout.dtype, LOOSE_TOLERANCE):
                return f"logits of {rows} rows differ by {apart:.1%} from those of each job by itself"
        return ""

    def _next(self, caches: Sequence[JobCache]) -> list[Segment]:
        return [Segment(cache, end, self._ids[end : end + 1]) for cache, end in zip(caches, self._ends, strict=True)]

    def _forward(self, segments: list[Segment], attention: Attention | None = None) -> torch.Tensor:
        return forward(self._loaded.model, segments, [True] * len(segments), self._loaded.device, attention)


def _apart(ours: torch.Tensor, own: torch.Tensor) -> float:
    return ((ours.float() - own.float()).abs().max() / own.float().abs().max()).item()
