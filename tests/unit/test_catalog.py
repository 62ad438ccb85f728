from pathlib import Path

import pytest

from nowserving.catalog import load_catalog, parse_catalog
from nowserving.errors import CatalogError, UnknownModelError


def parse(**models: object) -> object:
    return parse_catalog({"models": models}, "models.toml")


def test_without_a_file_the_built_in_model_is_served() -> None:
    assert load_catalog(None)["smollm2"].source == "builtin:smollm2"


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[models.a]\nengine = "noop"\nslots = 3\n[models.b]\nengine = "my.engines:Mine"\n')
    catalog = load_catalog(file)
    assert sorted(catalog) == ["a", "b"]
    assert catalog["a"].slots == 3
    with pytest.raises(UnknownModelError, match="there are: a, b"):
        catalog["c"]


def test_how_a_model_is_loaded_is_read_from_its_table(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(
        '[models.m]\nsource = "owner/name"\nrevision = "v1.0"\ntrust_remote_code = true\nattention = "eager"\n'
        'quantization = { quant_method = "bitsandbytes", load_in_4bit = true }\n'
    )
    model = load_catalog(file)["m"]
    assert (model.revision, model.trust_remote_code, model.attention) == ("v1.0", True, "eager")
    assert model.quantization == {"quant_method": "bitsandbytes", "load_in_4bit": True}
    plain = load_catalog(None)["smollm2"]
    assert (plain.revision, plain.trust_remote_code, plain.attention) == (None, False, "auto")
    assert plain.quantization is None


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"engine": "vllm"}, r"models\.m\.engine = 'vllm': allowed are"),
        ({"engine": "noop", "slots": 0}, r"models\.m\.slots = 0: .*greater than or equal to 1"),
        ({"engine": "noop", "slots": "8"}, r"models\.m\.slots = '8': .*integer"),
        ({"engine": "noop", "memory_fraction": 1.5}, r"models\.m\.memory_fraction = 1.5: .*less than or equal to 1"),
        ({"engine": "noop", "surprise": 1}, r"models\.m\.surprise is not a key; allowed are .*slots"),
        ({"engine": "transformers"}, r"models\.m\.source is missing"),
        ({"engine": "noop", "revision": "a b"}, r"models\.m\.revision = 'a b': "),
        ({"engine": "noop", "quantization": "4bit"}, r"models\.m\.quantization = '4bit': .*dictionary"),
        ({"engine": "noop", "quantization": {}}, r"models\.m\.quantization = {}: "),
        ({"engine": "noop", "trust_remote_code": "yes"}, r"models\.m\.trust_remote_code = 'yes': .*boolean"),
        ({"engine": "noop", "attention": ""}, r"models\.m\.attention = '': "),
        ({"engine": "noop", "name": "x"}, r"models\.m\.name is given"),
        (7, r"models\.m must be a table"),
        ({"engine": "noop", "min_replicas": 5}, r"models\.m\.min_replicas = 5: more than max_replicas"),
        ({"engine": "noop", "max_replicas": 0}, r"models\.m\.max_replicas = 0: "),
        ({"engine": "noop", "batch_weight": 1.5}, r"models\.m\.batch_weight = 1\.5: "),
        ({"engine": "noop", "cpu": "two"}, r"models\.m\.cpu = 'two': "),
        ({"engine": "noop", "cpu": "0.000"}, r"models\.m\.cpu = '0\.000': "),
        ({"engine": "noop", "cpu": "1\u0662"}, r"models\.m\.cpu = "),
        ({"engine": "noop", "cpu": "1" * 400}, r"models\.m\.cpu = "),
        ({"engine": "noop", "memory": "\u0664Gi"}, r"models\.m\.memory = "),
        ({"engine": "noop", "memory": "4"}, r"models\.m\.memory = '4': "),
        ({"engine": "noop", "memory": "4Gi\n"}, r"models\.m\.memory = "),
        ({"engine": "noop", "gpus": -1}, r"models\.m\.gpus = -1: "),
        ({"engine": "noop", "node_selector": {"a b": "c"}}, r"models\.m\.node_selector\.a b.* = "),
        ({"engine": "noop", "node_selector": {"a": "b: c"}}, r"models\.m\.node_selector\.a = 'b: c': "),
        ({"engine": "noop", "load_seconds": 1}, r"models\.m\.load_seconds = 1: "),
        ({"engine": "openai"}, r"models\.m: .*exactly one of url .* and command"),
        ({"engine": "openai", "url": "http://a", "command": ["a", "{port}"]}, "exactly one of url"),
        ({"engine": "openai", "url": "http://user:word@a"}, r"models\.m\.url = "),
        ({"engine": "openai", "url": "ftp://a"}, r"models\.m\.url = 'ftp://a'"),
        ({"engine": "openai", "command": []}, r"models\.m\.command = \[\]"),
        ({"engine": "openai", "command": "vllm serve"}, r"models\.m\.command = .*list"),
        ({"engine": "openai", "command": ["vllm", "serve"]}, r"models\.m\.command must say \{port\}"),
        ({"engine": "openai", "url": "http://a", "environment": {"A": "b"}}, r"environment is for a command"),
        ({"engine": "openai", "command": ["a", "{port}"], "environment": {"A B": "b"}}, r"environment\.A B"),
        (
            {"engine": "openai", "command": ["a", "{port}"], "environment": {"A": "${NOWSERVING_REDIS_URL}"}},
            r"NOWSERVING_REDIS_URL\} is the worker's own",
        ),
        ({"engine": "openai", "url": "http://a", "api_key_env": "A-B"}, r"models\.m\.api_key_env = 'A-B'"),
        ({"engine": "openai", "url": "http://a", "start_timeout_seconds": 0}, "start_timeout_seconds = 0"),
        ({"engine": "noop", "url": "http://a"}, r"models\.m\.url is for engine = \"openai\""),
    ],
)
def test_a_wrong_table_is_named(table: object, says: str) -> None:
    with pytest.raises(CatalogError, match=says):
        parse(m=table)


@pytest.mark.parametrize("name", ["", "Upper", "a b", "a:b", "-a", "x" * 65])
def test_a_wrong_name_is_refused(name: str) -> None:
    with pytest.raises(CatalogError, match="model name"):
        parse(**{name: {"engine": "noop"}})


@pytest.mark.parametrize("document", [{}, {"models": {}}, {"models": 1}, {"models": {"a": {}}, "other": {}}])
def test_anything_but_models_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(CatalogError, match=r"\[models\.NAME\]"):
        parse_catalog(document, "models.toml")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="cannot be read"):
        load_catalog(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[models")
    with pytest.raises(CatalogError, match="is not TOML"):
        load_catalog(tmp_path / "bad.toml")


def test_a_server_is_a_url_or_a_command() -> None:
    catalog = parse_catalog(
        {
            "models": {
                "a": {"engine": "openai", "url": "https://host:8000/v1", "api_key_env": "KEY"},
                "b": {"engine": "openai", "command": ["vllm", "--port={port}"], "environment": {"HF_TOKEN": "${T}"}},
                "c": {"engine": "openai", "command": ["serve"], "environment": {"HOST": "127.0.0.1:{port}"}},
            }
        },
        "models.toml",
    )
    assert catalog["a"].url == "https://host:8000/v1"
    assert catalog["b"].environment == {"HF_TOKEN": "${T}"}
    assert catalog["c"].start_timeout_seconds is None
