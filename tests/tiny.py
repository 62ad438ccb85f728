"""Tiny models of several architectures with random weights, and a tokenizer of bytes: made in code, in milliseconds."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from workers.engines.engine import Ended

EOS = 1
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' and not loop.first %}{{ raise_exception('system comes first') }}{% endif %}"
    "{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
SIZE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    "eos_token_id": EOS,
    "pad_token_id": 0,
    "bos_token_id": None,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gqa": {"model_type": "llama", "num_key_value_heads": 2},
    "mha": {"model_type": "llama", "num_key_value_heads": 4},
    "mqa": {"model_type": "llama", "num_key_value_heads": 1},
    "window": {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 16},
    "softcap": {"model_type": "gemma2", "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 16},
    "qwen": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 32},
    "sinks": {
        "model_type": "gpt_oss",
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    },
}


def make_tokenizer() -> Any:
    """One token a byte, so that characters and stop strings often cross the borders of tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<eos>": EOS} | {letter: index for index, letter in enumerate(alphabet, 2)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = cast(Any, pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.decoder = cast(Any, decoders.ByteLevel())
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    made.chat_template = TEMPLATE
    return made


def make_fallback_tokenizer() -> Any:
    """Words with a space before them, and bytes for all that is none of these, as Llama 2 and Gemma have it."""
    words = ["▁", "a", "b", "▁a", "▁hello", "日", "\N{REPLACEMENT CHARACTER}"]
    vocabulary = {"<pad>": 0, "<eos>": EOS}
    for piece in (*(f"<0x{byte:02X}>" for byte in range(256)), *words):
        vocabulary[piece] = len(vocabulary)
    merges = [("▁", "a")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
    tokenizer.pre_tokenizer = cast(Any, pre_tokenizers.Metaspace("▁", prepend_scheme="first"))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = cast(Any, decoders.Sequence(parts))
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    made.chat_template = TEMPLATE
    return made


def make_model(architecture: str = "gqa", seed: int = 0, **changes: Any) -> Any:
    """A model of the architecture in float32; the same seed gives the same weights."""
    return make_model_of(ARCHITECTURES[architecture] | changes, seed)


def make_model_of(options: dict[str, Any], seed: int = 0) -> Any:
    """As make_model, of these options of its configuration, `model_type` among them."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    options = SIZE | {"vocab_size": 258} | options
    config = AutoConfig.for_model(options.pop("model_type"), **options)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():  # as initialised, all logits are near zero: every text would be one letter
        if parameter.dim() > 1:
            parameter.data.mul_(6)
    return model


class Collected:
    """A sink that keeps all it is given; `wait` gives the end."""

    def __init__(self) -> None:
        self.prompts: list[int] = []
        self.batches: list[tuple[int, tuple[int, ...], str]] = []
        self.steps: list[tuple[int, int]] = []
        self.ends: list[Ended] = []
        self.moved = threading.Condition()

    def begun(self, prompt_tokens: int) -> None:
        with self.moved:
            self.prompts.append(prompt_tokens)
            self.moved.notify_all()

    def progress(self, done: int, total: int) -> None:
        with self.moved:
            self.steps.append((done, total))

    def tokens(self, index: int, ids: Sequence[int], text: str) -> None:
        with self.moved:
            self.batches.append((index, tuple(ids), text))
            self.moved.notify_all()

    def ended(self, end: Ended) -> None:
        with self.moved:
            self.ends.append(end)
            self.moved.notify_all()

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token for _, ids, _ in self.batches for token in ids)

    @property
    def text(self) -> str:
        return "".join(text for _, _, text in self.batches)

    def wait(self, seconds: float = 30) -> Ended:
        with self.moved:
            assert self.moved.wait_for(lambda: self.ends, seconds), "it did not end"
        return self.ends[0]

    def wait_for_tokens(self, count: int, seconds: float = 30) -> None:
        with self.moved:
            assert self.moved.wait_for(lambda: len(self.ids) >= count or self.ends, seconds), "no tokens came"
