"""How a model of the user's is loaded, and how each way it cannot be is told in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from nowserving.errors import EngineError, EngineUnavailableError
from nowserving.job import Input, Parameters
from nowserving.settings import Settings
from tests.tiny import Collected, make_model, make_tokenizer
from workers.engines import pretrained
from workers.engines.builtin import model_folder
from workers.engines.engine import Prompt
from workers.engines.pretrained import Recipe, attend_by, load_model
from workers.engines.transformers import TransformersEngine
from workers.engines.weights import read_weights
from workers.memory import Memory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_model().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path, **options: Any) -> list[tuple[str, float | None]]:
    said: list[tuple[str, float | None]] = []
    load_model(Recipe(str(folder), device="cpu", **options), lambda *words: said.append(words))
    return said


def refusal(folder: Path | str, kind: type[EngineError] = EngineError, **options: Any) -> str:
    with pytest.raises(EngineError) as raised:
        load_model(Recipe(str(folder), **({"device": "cpu"} | options)), lambda *_: None)
    assert type(raised.value) is kind
    assert "\n" not in raised.value.message
    assert len(raised.value.message) < 500
    return raised.value.message


def change(folder: Path, file: str = "config.json", **keys: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def cut(path: Path, by: int = 1000) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def test_fractions_grow_with_the_bytes_of_the_tensors(folder: Path) -> None:
    sizes = read_weights(folder, "m").sizes
    assert sum(sizes.values()) == sum(tensor.nbytes for tensor in load_file(folder / "model.safetensors").values())
    said = load(folder)
    assert said[0] == ("import", None)
    fractions = [fraction or 0.0 for phase, fraction in said if phase == "load"]
    steps = [round(later - before, 9) for before, later in pairwise(fractions)]
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert sorted(steps) == sorted(round(size / sum(sizes.values()), 9) for size in sizes.values())


def test_shards_are_one_model(folder: Path) -> None:
    whole = read_weights(folder, "m")
    make_model().save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    assert read_weights(folder, "m") == whole
    assert load(folder)[-1] == ("load", 1.0)
    next(folder.glob("model-*.safetensors")).unlink()
    assert "of its" in refusal(folder)
    assert "files of weights are not in" in refusal(folder)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (
            lambda folder: cut(folder / "model.safetensors"),
            r"is damaged: .*model\.safetensors .*it has \d+ bytes and its header speaks of \d+",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"version https://git-lfs"),
            r"its header is cut off",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), r"has no weights: there is no model\.safetensors in"),
        (lambda folder: (folder / "config.json").unlink(), r"has no config\.json"),
        (lambda folder: cut(folder / "config.json", 30), r"config\.json is damaged"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"holds no table"),
        (lambda folder: (folder / "config.json").write_text("{}"), r"has no model_type"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"has no tokenizer: there is no tokenizer\.json"),
        (lambda folder: cut(folder / "tokenizer.json", 30), r"is damaged: .*tokenizer\.json"),
        (lambda folder: change(folder, model_type="zork"), r"of type 'zork', which transformers [\d.]+ does not know"),
        (lambda folder: change(folder, model_type="t5"), r"of type 't5', which does not continue text"),
        (lambda folder: change(folder, hidden_size=128), r"weights have other shapes than its config\.json says"),
        (
            lambda folder: change(folder, num_hidden_layers=3),
            r"its weights lack 9 tensors .*such as model\.layers\.2\.",
        ),
        (lambda folder: change(folder, model_type="mamba", state_size=4), r"cannot be loaded|is not (supported|whole)"),
        (
            lambda folder: change(folder, model_type="own", auto_map={"AutoConfig": "own.C"}),
            r"brings code of its own: read it, and set trust_remote_code = true",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_wrong_with_a_folder_is_named(folder: Path, harm: Callable[[Path], object], says: str) -> None:
    harm(folder)
    assert re.search(says, refusal(folder))


def test_a_builtin_model_that_an_image_brings_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be written"):
        model_folder("builtin:smollm2", Path("/dev/null"), builtin_dir=tmp_path)  # nothing is there yet
    name = model_folder("builtin:smollm2", Settings().cache_dir).name
    (tmp_path / "models" / name).mkdir(parents=True)
    cache = tmp_path / "cache"
    assert model_folder("builtin:smollm2", cache, builtin_dir=tmp_path) == tmp_path / "models" / name
    assert not cache.exists()


def test_a_source_that_is_nothing_says_what_it_could_be(folder: Path) -> None:
    for source in ("/no/such/folder", "./model", "a/b/c", "two words"):
        assert f"there is no folder {source!r}, and it is no hub id such as owner/name" in refusal(source)
    assert "no built-in model" in refusal("builtin:zork")
    assert "revision 'v2' is for a hub id alone" in refusal(folder, revision="v2")
    assert "device 'cuda:7' is not there" in refusal(folder, device="cuda:7")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_too_little_memory_may_pass_and_is_told_with_figures(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    assert re.search(r"too little memory free .* and cpu has \d+ MB free", refusal(folder, EngineUnavailableError))


def test_weights_that_can_never_fit_are_refused_before_they_are_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    floats = read_weights(folder, "m").floats
    monkeypatch.setattr(pretrained, "_memory", lambda device: Memory(0, 3 * floats, 3 * floats))
    assert re.search(r"does not fit: its weights take \d+ MB and cpu has \d+ MB in all", refusal(folder))
    load(folder, dtype="bfloat16")


def test_a_broken_device_is_no_matter_of_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(torch.AcceleratorError):
        load_model(Recipe(str(folder), device="cpu"), lambda *_: None)


def test_code_that_a_model_brings_runs_only_if_it_is_trusted(folder: Path) -> None:
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class Own(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    change(folder, model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"})
    assert "trust_remote_code" in refusal(folder)
    loaded = load_model(Recipe(str(folder), device="cpu", trust_remote_code=True), lambda *_: None)
    assert type(loaded.model).__name__ == "Own"


@pytest.mark.parametrize(
    ("quantization", "says"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "requires bitsandbytes: `pip install"),
        ({"quant_method": "zork"}, "Unknown quantization type, got zork"),
        ({"bits": 4}, "no `quant_method`"),
    ],
)
def test_a_quantization_that_cannot_be_had_is_one_sentence(
    folder: Path, quantization: dict[str, Any], says: str
) -> None:
    said = refusal(folder, quantization=quantization)
    assert "cannot be quantized as the catalog says" in said
    assert says in said


def test_a_quantization_reaches_transformers_with_its_keys(folder: Path) -> None:
    asked: list[int] = []

    @register_quantization_config("rounding")
    class RoundingConfig(QuantizationConfigMixin):
        def __init__(self, digits: int = 0, **_: object) -> None:
            self.quant_method, self.digits = "rounding", digits  # type: ignore[assignment]

    @register_quantizer("rounding")
    class Rounding(HfQuantizer):
        requires_calibration = False

        def _process_model_after_weight_loading(self, model: Any, **_: object) -> Any:
            digits: int = self.quantization_config.digits  # type: ignore[attr-defined]
            asked.append(digits)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.copy_(parameter.round(decimals=digits))
            return model

        def is_serializable(self) -> bool:
            return False

        @property
        def is_trainable(self) -> bool:
            return False

    loaded = load_model(
        Recipe(str(folder), device="cpu", quantization={"quant_method": "rounding", "digits": 1}), lambda *_: None
    )
    assert asked == [1]
    weight = loaded.model.lm_head.weight
    assert torch.equal(weight, weight.round(decimals=1))


def test_attention_means_torchs_kernels_and_nothing_else_is_taken(folder: Path) -> None:
    from torch.backends import cuda

    for name, fused in (("auto", True), ("sdpa", True), ("eager", False)):
        with attend_by(name):
            assert cuda.flash_sdp_enabled() is cuda.mem_efficient_sdp_enabled() is fused
    assert cuda.flash_sdp_enabled()
    texts = []
    for name in ("auto", "eager"):
        engine = TransformersEngine(Recipe(str(folder), device="cpu", attention=name), slots=2, memory_fraction=0.5)
        engine.start()
        sink = Collected()
        engine.submit(engine.prepare(Prompt("j", Input(prompt="hello"), Parameters(seed=1), 60)), sink)
        texts.append(sink.wait().text)
        engine.close()
    assert texts[0] == texts[1]
    refused = TransformersEngine(Recipe(str(folder), attention="flash_attention_2"), slots=2, memory_fraction=0.5)
    with pytest.raises(
        EngineError, match="attention 'flash_attention_2' is not possible: this engine attends in its own"
    ):
        refused.start()


def test_a_start_ends_with_a_generation_and_one_that_fails_is_no_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(str(folder), device="cpu")
    steps: list[int] = []
    options: dict[str, Any] = {"slots": 8, "memory_fraction": 0.5}

    def watch(module: Any, inputs: Any, keywords: dict[str, Any]) -> None:
        steps.append(keywords["input_ids"].shape[-1] if "input_ids" in keywords else 0)

    def load_watched(recipe: Recipe, progress: Any) -> Any:
        loaded = load_model(recipe, progress)
        loaded.model.register_forward_pre_hook(watch, with_kwargs=True)
        return loaded

    monkeypatch.setattr("workers.engines.transformers.load_model", load_watched)
    engine = TransformersEngine(recipe, **options)
    engine.start()
    assert len(steps) >= 6
    engine.close()

    def load_spoiled(recipe: Recipe, progress: Any) -> Any:
        loaded = load_model(recipe, progress)
        loaded.model.model.norm.weight.data.fill_(float("nan"))
        return loaded

    monkeypatch.setattr("workers.engines.transformers.load_model", load_spoiled)
    spoiled = TransformersEngine(replace(recipe), **options)
    with pytest.raises(EngineError, match="not finite"):
        spoiled.start()
    assert not spoiled.health().alive
    save_file({}, folder / "empty.safetensors")  # a stranger's file beside the model is no matter
    load(folder)
