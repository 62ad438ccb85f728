"""The models a bench runs: any that the default engine loads, or one of random weights made where it will run.

`engine` makes them inside a worker, too: `engine = "bench.model:engine"`, `source = "NAME@BYTES"`, the cache's budget.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from bench.paced import PacedEngine
from nowserving.catalog import Model
from nowserving.settings import load_settings
from tests import tiny
from workers.engines.builtin import PREFIX, model_folder
from workers.engines.engine import Engine
from workers.engines.transformers import TransformersEngine

RANDOM: dict[str, dict[str, Any]] = {
    "random-8b": {  # as Llama 3.1 8B has them
        "model_type": "llama",
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "rope_theta": 500_000.0,
        "tie_word_embeddings": False,
    },
    "paced-8b": {  # as many layers, each as small as can be
        "model_type": "llama",
        "vocab_size": 1024,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "max_position_embeddings": 131_072,
        "rope_theta": 500_000.0,
        "tie_word_embeddings": False,
    },
}
PACED = {"paced-8b"}
"""Run at a card's pace, without a card."""
TINY = "tiny"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SLACK = 1.1
EMBEDDING_SCALE = 100
"""Of random embeddings. As drawn, the layers drown them, and random layers make of bfloat16's rounding other logits."""


def is_made(name: str) -> bool:
    """Whether `make` makes it of nothing; any other is a source that a catalog may name."""
    return name == TINY or name in RANDOM


def make(name: str, device: str, dtype: str) -> tuple[Any, Any]:
    """A model and its tokenizer: "tiny", a name of RANDOM, or what a catalog's source is.

    `dtype` "auto" is float32 on the CPU, elsewhere bfloat16. The same name gives the same weights in every process.
    """
    kind = DTYPES.get(dtype, torch.float32 if device == "cpu" else torch.bfloat16)
    if name == TINY:
        model, tokenizer = tiny.make_model().to(device, kind), tiny.make_tokenizer()
    elif name in RANDOM:
        model, tokenizer = make_random(RANDOM[name], device, kind), make_tokenizer(RANDOM[name]["vocab_size"])
    else:
        where = str(model_folder(name, load_settings().cache_dir)) if name.startswith(PREFIX) else name
        tokenizer = AutoTokenizer.from_pretrained(where)
        loaded: Any = AutoModelForCausalLM.from_pretrained(where, dtype=kind)
        model = loaded.to(device).eval()
    return model, tokenizer


def make_random(shape: dict[str, Any], device: str, dtype: torch.dtype) -> Any:
    """Random weights, drawn on the device: the host has no copy."""
    options = dict(shape)
    config = AutoConfig.for_model(options.pop("model_type"), **options, eos_token_id=1, pad_token_id=0)
    torch.manual_seed(0)
    with torch.device(device), torch.no_grad():
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        model.get_input_embeddings().weight.mul_(EMBEDDING_SCALE)
    return model


def make_tokenizer(vocabulary: int) -> Any:
    """Reads one token a byte; every further id is a word of its own, so that a random model's texts can be compared."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<pad>", "<eos>", *alphabet]
    words += [f"Ġw{number}" for number in range(len(words), vocabulary)]
    tokenizer = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = cast(Any, pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.decoder = cast(Any, decoders.ByteLevel())
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    made.chat_template = tiny.TEMPLATE
    return made


def twin(model: Any) -> Any:
    """A second model on the same weights, as transformers made it, whose `generate` does not end with a text.

    What an engine does to its own does not touch it.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    made = copy.deepcopy(model, shared)
    made.generation_config.eos_token_id = None
    return made


def cache_bytes(model: Any, tokens: int) -> int:
    """What the keys and values of so many tokens take at most, with some room to spare."""
    config = model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(SLACK * tokens * 2 * config.num_hidden_layers * heads * head_dim * model.dtype.itemsize)


def engine(model: Model) -> Engine:
    """For a catalog: the default engine with a model that `make` makes."""
    name, _, budget = model.source.rpartition("@")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if model.device == "auto" else model.device
    made, tokenizer = make(name, device, model.dtype)
    return engine_of(name, made, tokenizer, slots=model.slots, budget_bytes=int(budget), threads=model.threads)


def engine_of(name: str, model: Any, tokenizer: Any, **options: Any) -> TransformersEngine:
    """The default engine of a model that was made; options are those of TransformersEngine.of."""
    return (PacedEngine if name in PACED else TransformersEngine).of(model, tokenizer, **options)
